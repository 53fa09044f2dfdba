// A WebSocket that comes back by itself, to the next of several servers, after pauses that grow. They are drawn by lot,
// or the ten thousand pages of a server that has gone would all come back in the same second.

const FIRST = 1000
const LONGEST = 30_000
const SILENCE = 35_000 // milliseconds; a server that has pinged once does so every ten seconds

export class Link {
    #servers
    #tell
    #next
    #failures = 0
    #socket = null
    #due = 0
    #timer = 0
    #silence = 0

    // tell: {opened(), heard(message), lost(), waiting(seconds)}
    constructor(servers, tell) {
        this.#servers = servers
        this.#tell = tell
        this.#next = Math.floor(Math.random() * servers.length)
        addEventListener("online", () => this.now())
    }

    // Tries at once, unless there is a connection.
    now() {
        if (this.#socket) return
        clearInterval(this.#timer)
        const socket = (this.#socket = new WebSocket(this.#servers[this.#next++ % this.#servers.length]))
        socket.onopen = () => this.#tell.opened()
        socket.onmessage = (event) => this.#heard(event.data)
        socket.onclose = () => this.#lost(socket)
    }

    // False: it was not sent.
    send(message) {
        if (this.#socket?.readyState !== WebSocket.OPEN) return false
        this.#socket.send(JSON.stringify(message))
        return true
    }

    #heard(data) {
        let message
        try {
            message = JSON.parse(data)
        } catch {
            return
        }
        if (!message?.type) return
        this.#failures = 0 // not before: a server may accept everybody and serve nobody
        if (message.type === "ping" || this.#silence) {
            clearTimeout(this.#silence)
            const socket = this.#socket
            this.#silence = setTimeout(() => this.#lost(socket), SILENCE)
        }
        if (message.type === "ping") this.send({type: "pong"})
        else this.#tell.heard(message)
    }

    #lost(socket) {
        if (socket !== this.#socket) return
        socket.onmessage = socket.onclose = null
        socket.close() // one that is silent may not answer: it is not waited for
        clearTimeout(this.#silence)
        this.#socket = null
        this.#silence = 0
        const longest = Math.min(LONGEST, FIRST * 2 ** this.#failures++)
        this.#due = Date.now() + longest * (0.5 + Math.random() / 2)
        this.#tell.lost()
        this.#wait()
        this.#timer = setInterval(() => this.#wait(), 250)
    }

    #wait() {
        const left = this.#due - Date.now()
        if (left > 0) this.#tell.waiting(Math.ceil(left / 1000))
        else this.now()
    }
}

// What the page is told to use, as addresses of WebSockets. None: port 7272 of this page's host.
export function servers(told) {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:"
    const named = told.split(/\s+/).filter(Boolean)
    if (!named.length) return [`${scheme}//${location.hostname}:7272/`]
    return named.map((name) => new URL(name, location).href.replace(/^http/, "ws"))
}
