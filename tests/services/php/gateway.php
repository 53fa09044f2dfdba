<?php
// A gateway in PHP for the tests, as small as can be: text clients on one port, and on another what GatewayWorker's
// inner protocol is made of: PHP's own pack(), unpack(), serialize() and json_decode(). One process, stream_select().
// It tells its two ports on standard output, and every business worker that has come, a line of JSON each.

const HEAD = 'Npack_len/Ccmd/Nlocal_ip/nlocal_port/Nclient_ip/nclient_port/Nconnection_id/Cflag/ngateway_port/Next_len';
const ON_CONNECT = 1, ON_MESSAGE = 3, ON_CLOSE = 4;
const SCALAR = 1, NOT_ENCODED = 2;

class Peer
{
    public string $input = '';
    public bool $authorized = false;
    public string $key = '';

    public function __construct(public readonly mixed $socket)
    {
    }

    public function write(string $data): void
    {
        for ($sent = 0; $sent < strlen($data); $sent += $count) {
            $count = @fwrite($this->socket, substr($data, $sent));
            if ($count === false || $count === 0) {
                return;
            }
        }
    }

    public function answer(mixed $value): void
    {
        $this->raw(serialize($value));
    }

    public function raw(string $data): void
    {
        $this->write(pack('N', strlen($data)) . $data);
    }
}

class Client extends Peer
{
    public string $session = '';
    public ?string $uid = null;
    public ?array $groups = null;
    public ?Peer $worker = null;
    public int $id = 0;
}

class Gateway
{
    private array $clients = [];
    private array $peers = [];
    private array $workers = [];
    private int $last = 0;
    private mixed $outer;
    private mixed $inner;
    private int $lanPort;

    public function __construct(private readonly string $secretKey)
    {
        $this->outer = stream_socket_server('tcp://127.0.0.1:0');
        $this->inner = stream_socket_server('tcp://127.0.0.1:0');
        $this->lanPort = self::port($this->inner);
        echo json_encode([self::port($this->outer), $this->lanPort]), "\n";
    }

    public function run(): void
    {
        while (true) {
            $read = [$this->outer, $this->inner];
            foreach ([...$this->clients, ...array_values($this->peers)] as $peer) {
                $read[] = $peer->socket;
            }
            $write = $except = [];
            stream_select($read, $write, $except, null);
            foreach ($read as $socket) {
                $this->serve($socket);
            }
        }
    }

    private static function port(mixed $socket): int
    {
        return (int) substr(strrchr(stream_socket_get_name($socket, false), ':'), 1);
    }

    private function serve(mixed $socket): void
    {
        if ($socket === $this->outer) {
            $client = new Client(stream_socket_accept($socket));
            $client->id = ++$this->last;
            $this->clients[$client->id] = $client;
            $this->tell(ON_CONNECT, $client);
            return;
        }
        if ($socket === $this->inner) {
            $peer = new Peer(stream_socket_accept($socket));
            $peer->authorized = $this->secretKey === '';
            $this->peers[(int) $peer->socket] = $peer;
            return;
        }
        $peer = $this->peers[(int) $socket] ?? null;
        foreach ($peer ? [] : $this->clients as $client) {
            $peer = $client->socket === $socket ? $client : $peer;
        }
        if (!$peer) {
            return;
        }
        $data = fread($socket, 65536);
        if ($data === '' || $data === false) {
            $this->lose($peer);
            return;
        }
        $peer->input .= $data;
        $peer instanceof Client ? $this->lines($peer) : $this->packages($peer);
    }

    private function lose(Peer $peer): void
    {
        if ($peer instanceof Client) {
            if (!isset($this->clients[$peer->id])) {
                return;
            }
            unset($this->clients[$peer->id]);
            $this->tell(ON_CLOSE, $peer);
        } else {
            unset($this->peers[(int) $peer->socket], $this->workers[$peer->key]);
        }
        fclose($peer->socket);
    }

    private function lines(Client $client): void
    {
        while (($end = strpos($client->input, "\n")) !== false) {
            $line = substr($client->input, 0, $end);
            $client->input = substr($client->input, $end + 1);
            $this->tell(ON_MESSAGE, $client, $line);
        }
    }

    private function tell(int $cmd, Client $client, mixed $body = ''): void
    {
        if (!$this->workers) {
            return; // GatewayWorker would end the client
        }
        if ($client->worker === null || !in_array($client->worker, $this->workers, true)) {
            $client->worker = $this->workers[array_rand($this->workers)];
        }
        $flag = (int) is_scalar($body);
        $body = $flag ? $body : serialize($body);
        [$ip, $port] = explode(':', stream_socket_get_name($client->socket, true) ?: '127.0.0.1:0');
        $package = pack(
            'NCNnNnNCnN',
            28 + strlen($client->session) + strlen($body),
            $cmd,
            ip2long('127.0.0.1'),
            $this->lanPort,
            ip2long($ip),
            (int) $port,
            $client->id,
            $flag,
            self::port($this->outer),
            strlen($client->session),
        );
        $client->worker->write($package . $client->session . $body);
    }

    private function packages(Peer $peer): void
    {
        while (strlen($peer->input) >= 28) {
            $data = unpack(HEAD, $peer->input);
            if (strlen($peer->input) < $data['pack_len']) {
                return;
            }
            $extra = substr($peer->input, 28, $data['ext_len']);
            $body = substr($peer->input, 28 + $data['ext_len'], $data['pack_len'] - 28 - $data['ext_len']);
            $peer->input = substr($peer->input, $data['pack_len']);
            $body = $data['flag'] & SCALAR ? $body : unserialize($body);
            $text = is_string($body) && !($data['flag'] & NOT_ENCODED) ? "$body\n" : (string) $body;
            $this->obey($peer, $data['cmd'], $data['connection_id'], $extra, $body, $text);
            if (!is_resource($peer->socket)) {
                return;
            }
        }
    }

    private function obey(Peer $peer, int $cmd, int $id, string $extra, mixed $body, string $text): void
    {
        if ($cmd === 200 || $cmd === 202) {
            $said = json_decode($body, true);
            if (($said['secret_key'] ?? null) !== $this->secretKey) {
                $this->lose($peer);
                return;
            }
            $peer->authorized = true;
            if ($cmd === 200) {
                $peer->key = $said['worker_key'];
                $this->workers[$peer->key] = $peer;
                echo json_encode($peer->key), "\n";
            }
            return;
        }
        if (!$peer->authorized) {
            $this->lose($peer);
            return;
        }
        $client = $this->clients[$id] ?? null;
        switch ($cmd) {
            case 5:
                $client?->write($text);
                return;
            case 6:
                $asked = $extra === '' ? [] : json_decode($extra, true);
                foreach ($this->clients as $one) {
                    $is_meant = isset($asked['connections'])
                        ? isset($asked['connections'][$one->id])
                        : !isset($asked['exclude'][$one->id]);
                    if ($is_meant) {
                        $one->write($text);
                    }
                }
                return;
            case 7:
                if ($client) {
                    $client->write($text);
                    $this->lose($client);
                }
                return;
            case 8:
                $client && $this->lose($client);
                return;
            case 9:
                if ($client) {
                    $former = $client->session === '' ? [] : unserialize($client->session);
                    $client->session = serialize(array_replace_recursive($former, unserialize($extra)));
                }
                return;
            case 204:
                $client && $client->session = $extra;
                return;
            case 203:
                $client ? $peer->raw($client->session ?: serialize([])) : $peer->answer(null);
                return;
            case 11:
                $peer->answer((int) isset($client));
                return;
            case 12:
                $client && !empty($extra) && $client->uid = $extra;
                return;
            case 13:
                $client && $client->uid = null;
                return;
            case 14:
                foreach (json_decode($extra, true) as $uid) {
                    foreach ($this->clients as $one) {
                        $one->uid !== null && $one->uid == $uid && $one->write($text);
                    }
                }
                return;
            case 20:
                $client && $client->groups[$extra] = $extra;
                return;
            case 21:
                if ($client) {
                    unset($client->groups[$extra]);
                }
                return;
            case 22:
                $asked = json_decode($extra, true);
                foreach ($asked['group'] as $group) {
                    foreach ($this->clients as $one) {
                        isset($one->groups[$group]) && !isset($asked['exclude'][$one->id]) && $one->write($text);
                    }
                }
                return;
            case 24:
                $members = fn ($one) => $extra === '' || isset($one->groups[$extra]);
                $peer->answer(count(array_filter($this->clients, $members)));
                return;
            case 25:
                $peer->answer($this->select(json_decode($extra, true)));
                return;
            case 26:
                $groups = [];
                foreach ($this->clients as $one) {
                    $groups += $one->groups ?? [];
                }
                $peer->answer(array_keys($groups));
                return;
            case 27:
                foreach ($this->clients as $one) {
                    unset($one->groups[$extra]);
                }
                return;
            case 201:
                return;
        }
        fwrite(STDERR, "gateway inner pack err cmd=$cmd\n");
    }

    private function select(array $asked): array
    {
        $found = [];
        $where = $asked['where'];
        foreach ($this->clients as $id => $client) {
            $is = [
                'groups' => fn ($group) => isset($client->groups[$group]),
                'uid' => fn ($uid) => $client->uid !== null && $client->uid == $uid,
                'connection_id' => fn ($number) => $number == $id,
            ];
            $fits = !$where;
            foreach ($where as $key => $items) {
                foreach ($items as $item) {
                    $fits = $fits || $is[$key]($item);
                }
            }
            if ($fits) {
                if ($where) {
                    $found[$id] = [];
                }
                foreach ($asked['fields'] as $field) {
                    $found[$id][$field] = $client->$field ?? null;
                }
            }
        }
        return $found;
    }
}

error_reporting(E_ALL);
(new Gateway($argv[1] ?? ''))->run();
