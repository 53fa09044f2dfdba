// 1. The page connects to a gateway. 2. It is told its client_id. 3. It hands that to the site, 4. which binds it to whom
// it knows by the cookie. 5. The site pushes, 6. and the page shows it.

const $ = (id) => document.getElementById(id)
const named = document.querySelector("meta[name=push-servers]").content.split(/\s+/).filter(Boolean)
const servers = named.length ? named : [`${location.protocol === "https:" ? "wss:" : "ws:"}//${location.hostname}:7273/`]
const SILENCE = 35_000 // milliseconds: the gateway pings every ten seconds
let failures = 0

function connect() {
    const socket = new WebSocket(servers[failures % servers.length])
    let silence = setTimeout(lost, SILENCE)

    socket.onclose = lost
    socket.onmessage = ({data}) => {
        clearTimeout(silence)
        silence = setTimeout(lost, SILENCE)
        const message = JSON.parse(data)
        if (message.type === "ping") socket.send('{"type": "pong"}')
        else if (message.type === "push") show(message.content)
        else if (message.type === "init") bind(message.client_id).catch(lost)
    }

    function lost() {
        if (!socket.onclose) return // once is enough
        clearTimeout(silence)
        socket.onclose = socket.onmessage = null
        socket.close()
        $("state").textContent = "Connection lost. It is tried again soon."
        const longest = Math.min(30_000, 1000 * 2 ** failures++)
        setTimeout(connect, longest * (0.5 + Math.random() / 2))
    }
}

async function bind(client_id) {
    const answer = await fetch("bind", {method: "POST", body: new URLSearchParams({client_id})})
    if (!answer.ok) throw new Error(await answer.text())
    failures = 0
    $("state").textContent = "Connected."
}

function show(content) {
    const item = document.createElement("li")
    item.textContent = content // as text: whoever may push may not script
    $("messages").append(item)
    document.title = `(${$("messages").childElementCount}) Push`
}

$("uid").textContent = document.body.dataset.uid
connect()
