// What somebody wrote, as nodes: text is text whatever it looks like, addresses are links, addresses of pictures are
// pictures. No markup is ever parsed, so that there is nothing to escape.

const ADDRESS = /https?:\/\/[^\s<>"]+/gi
const PICTURE = /\.(?:png|jpe?g|gif|webp|avif)$/i

export function words(text) {
    const nodes = document.createDocumentFragment()
    let done = 0
    for (const found of text.matchAll(ADDRESS)) {
        const address = trimmed(found[0])
        if (!URL.canParse(address)) continue
        nodes.append(text.slice(done, found.index), link(new URL(address), address))
        done = found.index + address.length
    }
    nodes.append(text.slice(done))
    return nodes
}

// "See https://example.com/a_(b)." ends before the full stop, and after the bracket that was opened in it.
function trimmed(address) {
    for (;;) {
        const last = address.at(-1)
        const ends = ".,;:!?'*".includes(last) || (last === ")" && !address.includes("("))
        if (!ends) return address
        address = address.slice(0, -1)
    }
}

function link(url, address) {
    const anchor = document.createElement("a")
    anchor.href = url.href
    anchor.target = "_blank"
    anchor.rel = "noopener noreferrer nofollow"
    anchor.textContent = address
    if (PICTURE.test(url.pathname)) {
        const picture = document.createElement("img")
        picture.loading = "lazy"
        picture.referrerPolicy = "no-referrer"
        picture.alt = address
        picture.onerror = () => anchor.replaceChildren(address)
        picture.src = url.href
        anchor.replaceChildren(picture)
    }
    return anchor
}
