<?php
// The lab's application. Sessions lie in a directory that all backends share, or in one for each; every update is also counted there.
//
//   GET  /app/view          the session's counter, and a page of deterministic filling (Content-Length)
//   GET  /app/stream        the same page without a length: nginx sends it in chunks
//   POST /app/increment     counts up by one, exactly once for each request; X-Update names the update
//   PUT  /app/store/NAME    takes a body and answers with its length and SHA-256: as often as one likes
//
// X-Filling: bytes of filling. The session's name comes with the cookie; who brings none gets one.

const STORE = '/app/store/';

function page(int $counter): string
{
    $filling = min(2000000, (int)($_SERVER['HTTP_X_FILLING'] ?? 0));
    $line = hash('sha256', session_id() . ' ' . $counter) . "\n";
    return "counter $counter\n" . substr(str_repeat($line, intdiv($filling, strlen($line)) + 1), 0, $filling);
}

function answer(string $body): void
{
    header('Content-Type: text/plain');
    header('Content-Length: ' . strlen($body));
    echo $body;
}

function view(): string
{
    session_start(['read_and_close' => true]);
    return page($_SESSION['counter'] ?? 0);
}

// The session is locked from its start to its end: one update after the other, on whichever backend.
function increment(): string
{
    session_start();
    $_SESSION['counter'] = ($_SESSION['counter'] ?? 0) + 1;
    $line = session_id() . ' ' . preg_replace('/[^a-z0-9-]/', '', $_SERVER['HTTP_X_UPDATE'] ?? '') . "\n";
    file_put_contents(ini_get('session.save_path') . '/updates', $line, FILE_APPEND);
    session_write_close();
    return page($_SESSION['counter']);
}

function store(string $name): string
{
    $body = file_get_contents('php://input');
    $file = ini_get('session.save_path') . '/stored-' . preg_replace('/[^a-z0-9-]/', '', $name);
    file_put_contents("$file." . getmypid(), $body);
    rename("$file." . getmypid(), $file);
    return strlen($body) . ' ' . hash('sha256', $body) . "\n";
}

$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
switch ($_SERVER['REQUEST_METHOD'] . ' ' . (str_starts_with($path, STORE) ? STORE : $path)) {
    case 'GET /app/view':
        answer(view());
        break;
    case 'GET /app/stream':
        header('Content-Type: text/plain');
        echo view();
        break;
    case 'POST /app/increment':
        answer(increment());
        break;
    case 'PUT ' . STORE:
        answer(store(substr($path, strlen(STORE))));
        break;
    default:
        http_response_code(404);
        answer("no such page\n");
}
