<?php
// Clients of a Channel and of a GlobalData server for the tests: frames of serialize()d arrays over a blocking socket,
// with the names and the meaning of what PHP programs call. An address is "127.0.0.1:2206" or "unix:///path".

/** A line of the test's to read: JSON. */
function tell(...$values): void
{
    echo json_encode($values, JSON_PRESERVE_ZERO_FRACTION | JSON_THROW_ON_ERROR), "\n";
}

/** The next line that the test writes. */
function heard(): string
{
    return trim((string) fgets(STDIN));
}

class Frames
{
    private $socket;

    public function __construct(string $address)
    {
        $uri = str_contains($address, '://') ? $address : "tcp://$address";
        $this->socket = stream_socket_client($uri, $code, $words, 30);
        if ($this->socket === false) {
            throw new RuntimeException("$uri: $words");
        }
        stream_set_timeout($this->socket, 60);
    }

    public function send(string $body): void
    {
        $frame = pack('N', strlen($body) + 4) . $body;
        for ($sent = 0; $sent < strlen($frame); $sent += $count) {
            $count = fwrite($this->socket, substr($frame, $sent));
            if ($count === false || $count === 0) {
                throw new RuntimeException('the server does not take it');
            }
        }
    }

    public function receive(): string
    {
        ['length' => $length] = unpack('Nlength', $this->read(4));
        return $this->read($length - 4);
    }

    public function close(): void
    {
        fclose($this->socket);
    }

    private function read(int $count): string
    {
        $data = '';
        while (strlen($data) < $count) {
            $piece = fread($this->socket, $count - strlen($data));
            if ($piece === false || $piece === '') {
                throw new RuntimeException('the server has gone, or is silent');
            }
            $data .= $piece;
        }
        return $data;
    }
}

class ChannelClient
{
    public Frames $frames;
    private array $events = [];
    private array $queues = [];

    public function __construct(string $address)
    {
        $this->frames = new Frames($address);
    }

    public function on($event, callable $callback): void
    {
        $this->events[$event] = $callback;
        $this->say('subscribe', $event);
    }

    public function unsubscribe($events): void
    {
        foreach ((array) $events as $event) {
            unset($this->events[$event]);
        }
        $this->say('unsubscribe', $events);
    }

    public function publish($events, $data, bool $isLoop = false): void
    {
        $this->say($isLoop ? 'publishLoop' : 'publish', $events, ['data' => $data]);
    }

    public function enqueue($queues, $data): void
    {
        $this->say('enqueue', $queues, ['data' => $data]);
    }

    public function watch($queues, callable $callback, bool $autoReserve = true): void
    {
        foreach ((array) $queues as $queue) {
            $this->queues[$queue] = $autoReserve ? function ($data) use ($callback) {
                try {
                    $callback($data);
                } finally {
                    $this->reserve();
                }
            } : $callback;
        }
        $this->say('watch', $queues);
        if ($autoReserve) {
            $this->reserve();
        }
    }

    public function unwatch($queues): void
    {
        $this->say('unwatch', $queues);
    }

    public function reserve(): void
    {
        $this->frames->send(serialize(['type' => 'reserve']));
    }

    public function ping(): void
    {
        $this->frames->send('');
    }

    /** Handles so many messages. */
    public function run(int $count): void
    {
        while ($count-- > 0) {
            $message = unserialize($this->frames->receive(), ['allowed_classes' => false]);
            $callbacks = $message['type'] === 'event' ? $this->events : $this->queues;
            $callbacks[$message['channel']]($message['data']);
        }
    }

    private function say(string $type, $channels, array $more = []): void
    {
        $this->frames->send(serialize(['type' => $type, 'channels' => (array) $channels] + $more));
    }
}

class GlobalDataClient
{
    public Frames $frames;

    public function __construct(string $address)
    {
        $this->frames = new Frames($address);
    }

    public function __get($key)
    {
        return $this->ask('get', $key);
    }

    public function __set($key, $value): void
    {
        $this->ask('set', $key, ['value' => $value]);
    }

    public function __isset($key): bool
    {
        return $this->ask('get', $key) !== null;
    }

    public function __unset($key): void
    {
        $this->ask('delete', $key);
    }

    public function add($key, $value)
    {
        return $this->ask('add', $key, ['value' => $value]);
    }

    public function increment($key, $step = 1)
    {
        return $this->ask('increment', $key, ['step' => $step]);
    }

    public function cas($key, $old, $new)
    {
        return $this->ask('cas', $key, ['md5' => md5(serialize($old)), 'value' => $new]);
    }

    public function ping(): void
    {
        $this->frames->send('ping');
    }

    private function ask(string $command, $key, array $more = [])
    {
        $this->frames->send(serialize(['cmd' => $command, 'key' => $key] + $more));
        return unserialize($this->frames->receive(), ['allowed_classes' => false]);
    }
}
