// The page: shows what is said, sends what is written. Names and lines of others go in as text, never as markup.

import {Link, servers} from "./link.js"
import {words} from "./words.js"

const ROOMS = ["1", "2", "3", "4"]
const LINES = 500 // kept in the page
const SOON = 1000
const REFRESH = 30_000 // milliseconds, up to twice as many: the list of who is here is asked for anew
const EMOJIS = "😀 😂 🙂 😉 😍 🤔 😎 😭 😡 😱 🥳 😴 🙈 👍 👎 👏 🙏 💪 👋 🤝 ❤️ 💔 🔥 ✨ 🎉 🎂 ☕ 🍺 🌹 🌞 🌧️ ⚽ 🚀 🐱 🐶 🐼 ✅ ❌ ❓ 💤".split(" ")

const $ = (id) => document.getElementById(id)
const room = new URLSearchParams(location.search).get("room_id") || ROOMS[0]
const people = new Map() // client id to name
const shown = new Set() // ids of lines
let me = "" // the client id that this connection has got
let early = [] // lines that have come before the history
let sent = "" // given back if it is refused

// ---------------------------------------------------------------------------------------------------- the connection

const link = new Link(servers(document.querySelector("meta[name=chat-servers]").content), {
    opened: () => logIn(),
    heard: (message) => Object.hasOwn(heard, message.type) && heard[message.type](message),
    lost: () => {
        me = ""
        early = []
        $("content").value ||= sent // it may not have arrived
        sent = ""
        state("Connection lost.", true)
    },
    waiting: (seconds) => ($("countdown").textContent = `Next attempt in ${seconds} s.`),
})

function state(text, lost = false) {
    $("state-text").textContent = text
    $("state").classList.toggle("lost", lost)
    $("countdown").textContent = ""
    $("now").hidden = !lost
    $("send").disabled = !me
}

function logIn() {
    const name = sessionStorage.getItem("name")
    if (!name) ask("")
    else if (link.send({type: "login", client_name: name, room_id: room})) state("Coming in …")
}

function askWhoIsHere() {
    if (me) link.send({type: "people"})
}

const heard = {
    login(message) {
        if (message.client_list) {
            me = message.client_id
            $("rename").textContent = message.client_name
            state("Connected.")
            heard.people(message)
        } else {
            // Of the same name: it may be the same one, whose gateway was killed and has not said goodbye.
            if ([...people.values()].includes(message.client_name)) setTimeout(askWhoIsHere, SOON * (1 + Math.random()))
            people.set(message.client_id, message.client_name)
            event(message, " has come in")
            listPeople()
        }
    },
    people(message) {
        people.clear()
        for (const [id, name] of Object.entries(message.client_list)) people.set(id, name)
        listPeople()
    },
    history(message) {
        message.lines.forEach(line)
        early?.forEach(line)
        early = null
    },
    say(message) {
        if (early) early.push(message)
        else line(message)
    },
    logout(message) {
        if (!people.delete(message.from_client_id)) return
        event({client_name: message.from_client_name, time: message.time}, " has left")
        listPeople()
    },
    error(message) {
        if (!me) return ask(message.message)
        event({}, message.message).classList.add("wrong")
        $("content").value ||= sent
    },
}

// ---------------------------------------------------------------------------------------------------- what is shown

function line(message) {
    if (message.id && shown.has(message.id)) return
    if (message.from_client_id === me && message.content === sent.trim()) sent = ""
    const head = element("div", "head")
    head.append(bold(message.from_client_name))
    if (message.to_client_id !== "all") {
        const mine = message.from_client_id === me && message.to_client_id !== me
        if (mine) head.append(" to ", bold(message.to_client_name))
        else head.append(" to you")
        head.append(", in private")
    }
    head.append(" · ", when(message.time))
    const text = element("p", "text")
    text.append(words(message.content))
    const body = element("div")
    body.append(head, text)
    const item = element("li", "line")
    if (message.id) shown.add((item.dataset.id = message.id))
    item.classList.toggle("private", message.to_client_id !== "all")
    item.append(avatar(message.from_client_id, message.from_client_name), body)
    show(item)
    for (const picture of text.querySelectorAll("img")) {
        picture.onload = () => atEnd && toEnd()
    }
}

function event(who, what) {
    const item = element("li", "event")
    if (who.client_name) item.append(bold(who.client_name))
    item.append(what)
    if (who.time) item.append(" · ", when(who.time))
    show(item)
    return item
}

let atEnd = true // who reads what was said before is left there
$("lines").onscroll = () => {
    const {scrollHeight, scrollTop, clientHeight} = $("lines")
    atEnd = scrollHeight - scrollTop - clientHeight < 40
}

const toEnd = () => ($("lines").scrollTop = $("lines").scrollHeight)

function show(item) {
    $("lines").append(item)
    while ($("lines").childElementCount > LINES) {
        const oldest = $("lines").firstElementChild
        shown.delete(oldest.dataset.id)
        oldest.remove()
    }
    if (atEnd) toEnd()
}

function listPeople() {
    const items = [...people].sort(byName).map(([id, name]) => {
        const button = element("button")
        button.type = "button"
        button.append(avatar(id, name), bold(name), id === me ? " (you)" : "")
        button.onclick = () => {
            $("to").value = id === me ? "all" : id
            $("content").focus()
        }
        const item = element("li")
        item.append(button)
        return item
    })
    $("people").replaceChildren(...items)
    $("count").textContent = people.size
    listRecipients()
}

// Whoever was chosen stays chosen when he leaves: what is meant for one must not go to all.
function listRecipients() {
    const chosen = $("to").selectedOptions[0]
    const options = [option("all", "everybody")]
    for (const [id, name] of [...people].sort(byName)) if (id !== me) options.push(option(id, name))
    if (!options.some((other) => other.value === chosen.value)) {
        const gone = option(chosen.value, chosen.dataset.name)
        gone.textContent += " (has left)"
        gone.disabled = true
        options.push(gone)
    }
    options.find((other) => other.value === chosen.value).selected = true
    $("to").replaceChildren(...options)
}

const byName = ([, a], [, b]) => a.localeCompare(b)

function option(id, name) {
    const made = new Option(name, id)
    made.dataset.name = name
    return made
}

function element(tag, name = "") {
    const made = document.createElement(tag)
    made.className = name
    return made
}

function bold(name) {
    const made = element("b")
    const bdi = element("bdi") // a name from right to left turns nothing else round
    bdi.textContent = name
    made.append(bdi)
    return made
}

function avatar(id, name) {
    const made = element("span", "avatar")
    let hue = 0
    for (const letter of id) hue = (hue * 31 + letter.codePointAt(0)) % 360
    made.style.background = `hsl(${(hue * 137) % 360} 55% 40%)`
    made.textContent = [...name][0]?.toUpperCase() ?? "?"
    made.ariaHidden = "true"
    return made
}

function when(time) {
    const made = element("time")
    const moment = new Date(time)
    made.dateTime = time
    made.title = moment.toLocaleString()
    made.textContent = moment.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"})
    return made
}

// ---------------------------------------------------------------------------------------------------- what is done

function ask(complaint) {
    state("What is your name?")
    $("who-error").textContent = complaint
    $("name").value ||= sessionStorage.getItem("name") || localStorage.getItem("name") || "Guest"
    if ($("who").open) return // somebody is typing
    $("who").showModal()
    $("name").select()
}

$("who-form").onsubmit = (submitted) => {
    submitted.preventDefault()
    const name = $("name").value.trim()
    if (!name) return
    sessionStorage.setItem("name", name) // of this tab, also when it comes back or changes the room
    localStorage.setItem("name", name) // what the next one is offered
    $("who").close()
    logIn()
    $("content").focus()
}
$("who").oncancel = (cancelled) => cancelled.preventDefault()

$("rename").onclick = () => {
    sessionStorage.removeItem("name")
    location.reload()
}

$("say").onsubmit = (submitted) => {
    submitted.preventDefault()
    const content = $("content").value
    const to = $("to").selectedOptions[0]
    if (!content.trim() || !me) return
    if (to.disabled) {
        event({}, `${to.dataset.name} has left: choose somebody else.`).classList.add("wrong")
        return
    }
    if (!link.send({type: "say", to_client_id: to.value, to_client_name: to.dataset.name, content})) return
    sent = content
    $("content").value = ""
    atEnd = true
}

$("content").onkeydown = (key) => {
    if (key.key !== "Enter" || key.isComposing || key.shiftKey) return
    key.preventDefault()
    if (key.ctrlKey || key.metaKey) insert("\n")
    else $("say").requestSubmit()
}

function insert(text) {
    const field = $("content")
    field.setRangeText(text, field.selectionStart, field.selectionEnd, "end")
}

function openEmojis(open) {
    $("emojis").hidden = !open
    $("emoji").ariaExpanded = String(open)
}
$("emoji").onclick = () => {
    openEmojis($("emojis").hidden)
    if (!$("emojis").hidden) $("emojis").firstElementChild.focus()
}
$("tools").onkeydown = (key) => {
    if (key.key !== "Escape" || $("emojis").hidden) return
    openEmojis(false)
    $("emoji").focus()
}
for (const emoji of EMOJIS) {
    const button = element("button")
    button.type = "button"
    button.textContent = emoji
    button.onclick = () => {
        openEmojis(false)
        insert(emoji)
        $("content").focus()
    }
    $("emojis").append(button)
}

setInterval(() => document.hidden || askWhoIsHere(), REFRESH * (1 + Math.random()))

$("now").onclick = () => link.now()
$("room").textContent = room
document.title = `Room ${room} · Chat`
for (const name of ROOMS) {
    const anchor = element("a")
    anchor.href = `?room_id=${name}`
    anchor.textContent = name
    if (name === room) anchor.ariaCurrent = "page"
    $("rooms").append(anchor)
}
if (matchMedia("(max-width: 40rem)").matches) $("people-box").open = false
$("to").selectedOptions[0].dataset.name = "everybody"
link.now()
