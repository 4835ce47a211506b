/** One thing that no client should send, and what must come of it. */
export interface Abuse {
  readonly name: string;
  readonly pieces: readonly (string | Buffer)[];
  /** The statuses that must come back, in this order; none: the server hangs up. With several at one place any of them will do. */
  readonly want: readonly (number | readonly number[])[];
  /** The client has said all it has to say. */
  readonly end?: true;
}

const KIB = 1_024;
const MIB = 1_048_576;
const CHAT = "/v1/chat/completions";

export interface AbuseTarget {
  /** `127.0.0.1:8000` */
  readonly host: string;
  /** A peer id that can be asked. */
  readonly provider: string;
  readonly model: string;
  /** An address that nobody must connect to. */
  readonly canary: string;
}

/** All of it, for one gateway. */
export function abuses({ host, provider, model, canary }: AbuseTarget): Abuse[] {
  const list: Abuse[] = [];
  const add = (name: string, want: Abuse["want"][number] | null, ...pieces: (string | Buffer)[]): void =>
    void list.push({ name, pieces, want: want === null ? [] : [want] });
  /** A client that says no more: what it sent has an end too early. */
  const broken = (name: string, want: Abuse["want"][number] | null, ...pieces: (string | Buffer)[]): void =>
    void list.push({ name, pieces, want: want === null ? [] : [want], end: true });

  const head = (line: string, ...more: string[]): string =>
    [`${line} HTTP/1.1`, `host: ${host}`, "connection: close", ...more, "", ""].join("\r\n");
  const post = (...more: string[]): string => head(`POST ${CHAT}`, ...more);
  const chunked = (body: string, ...more: string[]): string => post("transfer-encoding: chunked", ...more) + body;
  const whole = (body: string | Buffer, path = CHAT, type = "application/json"): (string | Buffer)[] => [
    head(`POST ${path}`, `content-type: ${type}`, `content-length: ${Buffer.byteLength(body)}`),
    typeof body === "string" ? Buffer.from(body) : body,
  ];
  const chat = (extra: object = {}): string =>
    JSON.stringify({ model, messages: [{ role: "user", content: "Hello" }], ...extra });

  // What is no HTTP/1.1 request at all.
  add("nothing but an end of line, without end", 400, "\r\n".repeat(100), "x");
  add("a TLS ClientHello", 400, Buffer.from("16030100c8010000c403035f", "hex"), Buffer.alloc(200, 1));
  add("the preface of HTTP/2", 400, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
  add("an SSH banner", 400, "SSH-2.0-OpenSSH_9.6\r\n");
  add("a mail", 400, "EHLO example.org\r\n");
  add("a binary flood", 400, Buffer.alloc(MIB, 0xff));
  add("nulls", 400, Buffer.alloc(64 * KIB));
  add("a redis command", 400, "*1\r\n$4\r\nPING\r\n");
  add("a proxy protocol line", 400, `PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n${head("GET /v1/health")}`);
  broken("HTTP/0.9", 400, "GET /v1/health\r\n");
  add("HTTP/0.9 by name", 400, `GET /v1/health HTTP/0.9\r\nhost: ${host}\r\n\r\n`);
  add("HTTP/1.2", 400, `GET /v1/health HTTP/1.2\r\nhost: ${host}\r\n\r\n`);
  add("HTTP/2.0 without its preface", 400, `GET /v1/health HTTP/2.0\r\nhost: ${host}\r\n\r\n`);
  add("HTTP/9.9", 400, `GET /v1/health HTTP/9.9\r\nhost: ${host}\r\n\r\n`);
  add("HTTP in lower case", 400, `GET /v1/health http/1.1\r\nhost: ${host}\r\n\r\n`);
  add("a version of many digits", 400, `GET /v1/health HTTP/1.11\r\nhost: ${host}\r\n\r\n`);
  add("RTSP", 400, `DESCRIBE rtsp://x RTSP/1.0\r\nhost: ${host}\r\n\r\n`);
  add("lines that end in LF alone", 400, `GET /v1/health HTTP/1.1\nhost: ${host}\n\n`);
  add("lines that end in CR alone", 400, `GET /v1/health HTTP/1.1\rhost: ${host}\r\r`);
  add("two blanks in the request line", [200, 400], head("GET  /v1/health"));
  add("a tab in the request line", 400, `GET\t/v1/health HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
  add("a blank before the method", 400, ` GET /v1/health HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
  broken("half a request line", 400, "GET /v1/hea");
  broken("half a header", 400, `GET /v1/health HTTP/1.1\r\nhos`);
  broken("no end of the head", 400, `GET /v1/health HTTP/1.1\r\nhost: ${host}\r\n`);
  broken("nothing at all", null);

  // Methods.
  add("an unknown method", 400, head("FOO /v1/health"));
  add("a method in lower case", 400, head("get /v1/health"));
  add("an endless method", 400, "A".repeat(MIB));
  add("a method with a null", 400, "GE\0T /v1/health HTTP/1.1\r\n\r\n");
  add("TRACE", 405, head("TRACE /v1/health"));
  add("TRACE with a key in it", 405, head("TRACE /v1/health", "authorization: Bearer secret"));
  add("CONNECT", 405, `CONNECT ${canary} HTTP/1.1\r\nhost: ${canary}\r\n\r\n`);
  add("CONNECT with data behind it", 405, `CONNECT ${canary} HTTP/1.1\r\nhost: ${canary}\r\n\r\n`, "x".repeat(KIB));
  for (const method of ["PROPFIND", "MKCOL", "PURGE", "PATCH", "PUT", "DELETE", "LINK", "QUERY", "M-SEARCH"])
    add(`${method} where there is no such route`, [404, 405], head(`${method} ${CHAT}`, "content-length: 0"));
  add("OPTIONS *", 400, head("OPTIONS *"));
  add("GET *", 400, head("GET *"));

  // Targets.
  for (const [name, target] of [
    ["two slashes at its beginning", "//v1/health"],
    ["a host at its beginning", `//${canary}/v1/health`],
    ["nothing but slashes", "//"],
    ["a way up", "/v1/x/../health"],
    ["a way up to nowhere", "/../../../../etc/passwd"],
    ["an escaped way up", "/v1/%2e%2e/v1/health"],
    ["a half escaped way up", "/v1/.%2E/v1/health"],
    ["a step in place", "/v1/./health"],
    ["a way up at its end", "/v1/health/.."],
    ["a backslash", "/v1\\health"],
    ["a way up with backslashes", "/v1\\..\\v1\\health"],
    ["a broken escape", "/v1/%zz"],
    ["half an escape", "/v1/health%2"],
    ["a percent sign alone", "/v1/health%"],
    ["an escaped null", "/v1/health%00"],
    ["an escaped null in the middle", "/v1/models/a%00b"],
    ["a fragment", "/v1/health#x"],
    ["a fragment in the query", "/v1/health?a=b#c"],
    ["no slash at its beginning", "v1/health"],
    ["nothing but a query", "?a=b"],
    ["another host", "http://example.org/v1/health"],
    ["the canary's host", `http://${canary}/v1/health`],
    ["a host that is none", "http://[/v1/health"],
    ["an own host with a user", `http://me@${host}/v1/health`],
    ["no host", "http:///v1/health"],
    ["another scheme", `ftp://${host}/v1/health`],
    ["a scheme of scripts", "javascript:alert(1)"],
    ["bytes beyond ASCII", "/v1/models/\xe9\xff"],
    ["overlong UTF-8", "/v1/\xc0\xae\xc0\xae/x"],
  ] as const)
    add(`a target with ${name}`, 400, head(`GET ${target}`));
  add("its own host as a target", 200, head(`GET http://${host}/v1/health`));
  add("a target of 16 KiB", 431, head(`GET /${"a".repeat(16 * KIB)}`));
  add("a target of 1 MiB", 431, head(`GET /${"a".repeat(MIB)}`));
  add("a target of 10,000 segments", [404, 431], head(`GET ${"/a".repeat(7_000)}`));
  add("a target of many escapes", [404, 431], head(`GET /${"%41".repeat(5_000)}`));
  add("a query of 8,000 bytes", 200, head(`GET /v1/health?${"a=b&".repeat(2_000)}`));
  add("a query with broken escapes", 200, head("GET /v1/health?%zz=%"));
  add("a path named __proto__", 404, head("GET /__proto__"));
  add("a model named constructor", 404, head("GET /v1/models/constructor"));
  add("a receipt named __proto__", 404, head("GET /v1/receipts/__proto__"));
  add("a provider named toString", 404, ...whole(chat(), "/v1/request/toString"));
  add("a model with a line in its name", 404, head("GET /v1/models/a%0d%0aset-cookie:%20x"));

  // Hosts.
  const hosts = (...lines: string[]): string =>
    ["GET /v1/health HTTP/1.1", "connection: close", ...lines, "", ""].join("\r\n");
  add("no host", 400, hosts());
  add("an empty host", 400, hosts("host:"));
  add("two hosts", 400, hosts(`host: ${host}`, "host: evil.example"));
  add("the same host twice", 400, hosts(`host: ${host}`, `Host: ${host}`));
  add("two hosts in one", 400, hosts(`host: ${host}, evil.example`));
  add("a host with a path", 400, hosts(`host: ${host}/evil`));
  add("a host with a user", 400, hosts(`host: evil@${host}`));
  add("a host with a blank", 400, hosts("host: 127.0.0.1 evil"));
  add("a host with a port of many digits", 400, hosts("host: 127.0.0.1:999999999"));
  add("a host with a question mark", 400, hosts("host: 127.0.0.1?x"));
  add("a host by another name", 403, hosts("host: evil.example"));
  add("a host that begins like its own", 403, hosts("host: 127.0.0.1.evil.example"));
  add("a host that ends like its own", 403, hosts("host: evil-localhost"));
  add("a host of another machine", 403, hosts("host: 192.168.0.1"));
  add("a host header with a blank before the colon", 400, hosts(`host : ${host}`));

  // Where a body ends: what one server reads otherwise than the next is how requests are smuggled.
  const inner = `GET /smuggled HTTP/1.1\r\nhost: ${host}\r\n\r\n`;
  for (const [name, lines, body] of [
    ["both a length and chunks", ["content-length: 5", "transfer-encoding: chunked"], `0\r\n\r\n${inner}`],
    ["both chunks and a length", ["transfer-encoding: chunked", "content-length: 5"], `0\r\n\r\n${inner}`],
    ["two lengths", ["content-length: 0", `content-length: ${inner.length}`], inner],
    ["the same length twice", ["content-length: 5", "content-length: 5"], "hello"],
    ["two lengths in one", ["content-length: 5, 6"], "hello"],
    ["a length below 0", ["content-length: -1"], inner],
    ["a length with a sign", ["content-length: +5"], "hello"],
    ["a length in hex", ["content-length: 0x5"], "hello"],
    ["a length with a point", ["content-length: 5.0"], "hello"],
    ["a length with an exponent", ["content-length: 1e1"], "hellohello"],
    ["a length of blanks", ["content-length:  "], inner],
    ["a length with blanks in it", ["content-length: 1 0"], "hellohello"],
    ["a length beyond 2^64", ["content-length: 18446744073709551621"], "hello"],
    ["a length of 100 digits", [`content-length: ${"9".repeat(100)}`], "hello"],
    ["chunks in other words", ["transfer-encoding: xchunked"], `0\r\n\r\n${inner}`],
    ["chunks that are not the last coding", ["transfer-encoding: chunked, identity"], `0\r\n\r\n${inner}`],
    ["chunks after gzip", ["transfer-encoding: gzip, chunked"], `0\r\n\r\n${inner}`],
    ["chunks twice", ["transfer-encoding: chunked, chunked"], `0\r\n\r\n${inner}`],
    ["chunks in two headers", ["transfer-encoding: chunked", "transfer-encoding: identity"], `0\r\n\r\n${inner}`],
    ["chunks in quotes", ['transfer-encoding: "chunked"'], `0\r\n\r\n${inner}`],
    ["chunks with a parameter", ["transfer-encoding: chunked;q=1"], `0\r\n\r\n${inner}`],
    ["chunks behind a vertical tab", ["transfer-encoding: \x0bchunked"], `0\r\n\r\n${inner}`],
    ["chunks behind a null", ["transfer-encoding: \0chunked"], `0\r\n\r\n${inner}`],
    ["a blank before the colon", ["transfer-encoding : chunked"], `0\r\n\r\n${inner}`],
    ["an underscore in the name, and no length", ["transfer_encoding: chunked"], `0\r\n\r\n${inner}`],
    ["a folded line", ["transfer-encoding:", " chunked"], `0\r\n\r\n${inner}`],
    ["identity", ["transfer-encoding: identity"], inner],
    ["an empty coding", ["transfer-encoding:"], inner],
  ] as const)
    add(`a body with ${name}`, 400, post(...lines) + body);
  add(
    "chunks in HTTP/1.0",
    400,
    `POST ${CHAT} HTTP/1.0\r\nhost: ${host}\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`,
  );
  for (const [name, coding] of [
    ["in capitals", "Chunked"],
    ["in nothing but capitals", "CHUNKED"],
    ["in mixed letters", "cHuNkEd"],
    ["with a blank behind them", "chunked "],
    ["with blanks before them", "   chunked"],
  ] as const)
    add(`chunks ${name} are chunks`, 400, `${post(`Transfer-Encoding: ${coding}`)}2\r\n{}\r\n0\r\n\r\n${inner}`);
  list.push({
    name: "a request behind a complete one, which is a request of its own",
    pieces: [`GET /v1/health HTTP/1.1\r\nhost: ${host}\r\n\r\n${head("GET /v1/health")}`],
    want: [200, 200],
  });
  list.push({
    name: "a request that is the body of another",
    pieces: [
      `POST ${CHAT} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: ${inner.length}\r\n\r\n${inner}`,
      head("GET /v1/health"),
    ],
    want: [400, 200],
  });
  list.push({
    name: "garbage behind a complete request",
    pieces: [`GET /v1/health HTTP/1.1\r\nhost: ${host}\r\n\r\n`, "\0\0\0garbage\r\n\r\n"],
    want: [200, 400],
  });
  list.push({
    name: "more body than the length says",
    pieces: [`POST ${CHAT} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: 2\r\n\r\n{}trailing`],
    want: [400, 400],
    end: true,
  });
  list.push({
    name: "200 requests at once",
    pieces: [`GET /v1/health HTTP/1.1\r\nhost: ${host}\r\n\r\n`.repeat(200) + head("GET /v1/health")],
    want: Array.from({ length: 201 }, () => 200),
  });
  list.push({
    name: "200 calls at once, of which the last is broken",
    pieces: [`POST ${CHAT} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: 2\r\n\r\n{}`.repeat(200), "BROKEN\r\n\r\n"],
    want: Array.from({ length: 201 }, () => 400),
  });
  add(
    "a GET with a body of chunks",
    200,
    `${head("GET /v1/health", "transfer-encoding: chunked")}5\r\nhello\r\n0\r\n\r\n`,
  );

  // Chunks.
  add("a chunk size that is no number", 400, chunked("zz\r\nx\r\n0\r\n\r\n"));
  add("a chunk size below 0", 400, chunked("-1\r\nx\r\n0\r\n\r\n"));
  add("a chunk size with 0x", 400, chunked("0x1\r\nx\r\n0\r\n\r\n"));
  add("a chunk size beyond 2^64", 400, chunked("fffffffffffffffff\r\nx"));
  broken("a chunk size of 2^63", 400, chunked("8000000000000000\r\nx\r\n0\r\n\r\n"));
  add("no chunk size", 400, chunked("\r\nx\r\n0\r\n\r\n"));
  add("a chunk longer than its size", 400, chunked("1\r\nxyz\r\n0\r\n\r\n"));
  add("chunks that end in LF alone", 400, chunked("1\nx\n0\n\n"));
  add("a chunk with a blank before its size", 400, chunked(" 1\r\nx\r\n0\r\n\r\n"));
  add("a chunk extension of 1 MiB", 413, chunked(`1;${"a".repeat(MIB)}\r\nx\r\n0\r\n\r\n`));
  add(
    "1,000 chunk extensions of 300 bytes",
    [400, 413],
    chunked(`1;${"a".repeat(300)}\r\n{\r\n`.repeat(1_000) + "0\r\n\r\n"),
  );
  add("a chunk extension with a null", 400, chunked("1;a=\0\r\nx\r\n0\r\n\r\n"));
  add("100,000 chunks of a byte", 400, chunked("1\r\n \r\n".repeat(100_000) + "0\r\n\r\n"));
  add("trailers of 32 KiB", 431, chunked(`0\r\nx: ${"a".repeat(32 * KIB)}\r\n\r\n`));
  add(
    "trailers that would change the request",
    400,
    chunked("2\r\n{}\r\n0\r\ncontent-length: 99\r\nhost: evil\r\n\r\n"),
  );
  add("a trailer that is none", 400, chunked("2\r\n{}\r\n0\r\nnonsense\r\n\r\n"));
  broken("chunks without an end", 400, chunked("5\r\nhello\r\n"));
  broken("half a chunk", 400, chunked("ff\r\nhello"));
  broken("less body than the length says", 400, post("content-length: 100") + "{}");
  add("chunks of more than the limit", 413, chunked(`${(5 * MIB).toString(16)}\r\n`), Buffer.alloc(5 * MIB, 0x20));
  add("a length above the limit", 413, post("content-length: 1000000000"), Buffer.alloc(KIB));

  // Headers.
  add("a header of 32 KiB", 431, head("GET /v1/health", `x: ${"a".repeat(32 * KIB)}`));
  add("a header of 4 MiB", 431, head("GET /v1/health", `x: ${"a".repeat(4 * MIB)}`));
  add("a header name of 32 KiB", 431, head("GET /v1/health", `${"a".repeat(32 * KIB)}: x`));
  add("5,000 headers", 431, head("GET /v1/health", ...Array.from({ length: 5_000 }, (_, i) => `x${i}: y`)));
  add("2,000 headers of two bytes", 200, head("GET /v1/health", ...Array.from({ length: 400 }, () => "a:")));
  add("a header without a name", 400, head("GET /v1/health", ": x"));
  add("a header without a colon", 400, head("GET /v1/health", "nonsense"));
  add("a header name with a blank", 400, head("GET /v1/health", "a b: c"));
  add("a header name beyond ASCII", 400, head("GET /v1/health", "\xe9: c"));
  add("a header with a null", 400, head("GET /v1/health", "x: a\0b"));
  add("a header with a CR", 400, head("GET /v1/health", "x: a\rb"));
  add("a header with a LF", [200, 400], head("GET /v1/health", "x: a\nb: c"));
  add("a header that goes on in the next line", 400, head("GET /v1/health", "x: a", " b"));
  add("a header named __proto__", 200, head("GET /v1/health", "__proto__: x", "constructor: y", "hasOwnProperty: z"));
  add("headers beyond ASCII", 200, head("GET /v1/health", "x: \xe9\xff", "accept: \x80"));
  add("1,000 forwarded addresses", 200, head("GET /v1/health", `x-forwarded-for: ${"1.2.3.4, ".repeat(1_000)}x`));
  add("a compressed body", 415, `${post("content-encoding: gzip", "content-length: 2")}{}`);
  add(
    "a last event id that is none",
    400,
    `${post("x-aimo-resume: 1", "last-event-id: ../../x", "content-length: 2")}{}`,
  );
  for (const key of [
    "' OR 1=1 --",
    "__proto__",
    "constructor",
    "a".repeat(8 * KIB),
    "Bearer Bearer",
    "\xff\xfe",
    "key\tkey",
  ])
    add(
      `a key such as ${JSON.stringify(key.slice(0, 12))}`,
      200,
      head("GET /v1/health", `authorization: Bearer ${key}`),
    );

  // Expectations and upgrades.
  add("an expectation that nobody knows", 417, `${post("expect: a-miracle", "content-length: 2")}{}`);
  add(
    "a body above the limit that waits to be asked for",
    413,
    post("expect: 100-continue", "content-length: 99999999"),
  );
  list.push({
    name: "a body that does not wait to be asked for",
    pieces: [`${post("expect: 100-continue", "content-length: 2")}{}`],
    want: [100, 400],
  });
  const upgrade = (line: string, protocol: string, ...more: string[]): string =>
    [`${line} HTTP/1.1`, `host: ${host}`, "connection: upgrade, close", `upgrade: ${protocol}`, ...more, "", ""].join(
      "\r\n",
    );
  add(
    "an upgrade to h2c is passed over",
    [200, 404],
    upgrade("GET /v1/health", "h2c", "http2-settings: AAMAAABkAAQAAP__"),
  );
  add("an upgrade to nothing that there is", [200, 404], upgrade("GET /v1/health", "x-unknown/9"));
  add("an upgrade to TLS", [200, 404], upgrade("GET /v1/health", "TLS/1.0"));
  add(
    "an upgrade to a WebSocket where there is none",
    [200, 404],
    upgrade("GET /v1/health", "websocket", "sec-websocket-version: 13", "sec-websocket-key: x"),
  );
  add("an upgrade of no path", 404, upgrade("GET /nowhere", "websocket"));
  add("an upgrade of a broken target", 400, upgrade("GET //", "websocket"));
  add("an upgrade of an absolute target", 400, upgrade("GET http://[", "websocket"));
  add("an upgrade with two hosts", 400, upgrade("GET /v1/health", "websocket", "host: evil"));
  add("an upgrade with a body", [200, 400, 404], `${upgrade("GET /v1/health", "websocket", "content-length: 5")}hello`);
  add("an upgrade of a POST", [400, 404], `${upgrade(`POST ${CHAT}`, "websocket", "content-length: 2")}{}`);
  add(
    "an upgrade with 300 protocols",
    [200, 404, 431],
    upgrade("GET /v1/health", "websocket", `sec-websocket-protocol: ${"a, ".repeat(300)}b`),
  );
  add("the frames of a WebSocket without its handshake", 400, Buffer.from("818537fa213d7f9f4d5158", "hex"));

  // Bodies.
  const deep = (depth: number): string => "[".repeat(depth) + "]".repeat(depth);
  add("no body", 400, post("content-length: 0"));
  add("a body without length or chunks", 400, post());
  add("a body that is no JSON", 400, ...whole("hello"));
  add("half of JSON", 400, ...whole('{"model":"m","messages":['));
  add("JSON with more behind it", 400, ...whole(`${chat()}x`));
  add("two of JSON", 400, ...whole(chat() + chat()));
  add("JSON with a null in it", 400, ...whole('{"model":"m\0"}'));
  add("JSON with a byte order mark", 400, ...whole(`\ufeff${chat()}`));
  add("JSON in UTF-16", 400, ...whole(Buffer.from(chat(), "utf16le")));
  add(
    "JSON that is no UTF-8",
    400,
    ...whole(Buffer.concat([Buffer.from('{"model":"'), Buffer.from([0xff, 0xfe]), Buffer.from('","messages":[]}')])),
  );
  add(
    "JSON with overlong UTF-8",
    400,
    ...whole(Buffer.concat([Buffer.from('{"model":"'), Buffer.from([0xc0, 0x80]), Buffer.from('","messages":[]}')])),
  );
  add("JSON with comments", 400, ...whole("{/* */}"));
  add("NaN", 400, ...whole("NaN"));
  for (const body of ["null", "1", '"x"', "true", "[]", "{}", "1e999"])
    add(`JSON that is ${body}`, 400, ...whole(body));
  add("a model that is no name", 400, ...whole('{"model":{"toString":1},"messages":[]}'));
  add("messages that are none", 400, ...whole(`{"model":"${model}","messages":{"length":1}}`));
  add("stream that is no boolean", 400, ...whole(chat({ stream: "yes" })));
  add("a model without an end", 404, ...whole(JSON.stringify({ model: "m".repeat(MIB), messages: [] })));
  add("a model with lines in its name", 404, ...whole(JSON.stringify({ model: "m\r\nx: y\n\ndata: z", messages: [] })));
  add("a model named __proto__", 404, ...whole('{"model":"__proto__","messages":[]}'));
  add("a model that only a prototype has", 400, ...whole(`{"__proto__":{"model":"${model}","messages":[]}}`));
  add(
    "a model that only a constructor has",
    400,
    ...whole(`{"constructor":{"prototype":{"model":"${model}","messages":[]}}}`),
  );
  add(
    "keys of prototypes beside good ones",
    200,
    ...whole(`{"__proto__":{"x":1},"constructor":{"prototype":{"y":1}},${chat().slice(1)}`),
  );
  add("a depth of 65", 400, ...whole(`{"model":"m","messages":[],"x":${deep(64)}}`));
  add("a depth of 2,000,000", 400, ...whole(deep(2_000_000)));
  add("a depth of 500,000 objects", 400, ...whole('{"a":'.repeat(500_000) + "1" + "}".repeat(500_000)));
  add("4 MiB of opening brackets", 400, ...whole("[".repeat(4 * MIB)));
  add("10,001 messages", 400, ...whole(JSON.stringify({ model, messages: Array.from({ length: 10_001 }, () => 1) })));
  add(
    "1,000,000 messages",
    400,
    ...whole(JSON.stringify({ model, messages: Array.from({ length: 1_000_000 }, () => 1) })),
  );
  add("a number of 1,000,000 digits", 200, ...whole(`{"x":${"1".repeat(1_000_000)},${chat().slice(1)}`));
  add(
    "200,000 keys",
    200,
    ...whole(`{${Array.from({ length: 200_000 }, (_, i) => `"k${i}":0,`).join("")}${chat().slice(1)}`),
  );
  add("3 MiB of quotes", 400, ...whole(`{"model":"${'\\"'.repeat(1.5 * MIB)}`));
  add("a form", 400, ...whole("model=m&messages=1", CHAT, "application/x-www-form-urlencoded"));
  add(
    "a form of a page of another origin",
    403,
    head(`POST ${CHAT}`, "origin: https://evil.example", "content-type: text/plain", "content-length: 2") + "{}",
  );
  add(
    "a call of a page in a frame without origin",
    403,
    head(`POST ${CHAT}`, "origin: null", "content-length: 2") + "{}",
  );

  // What must not lead the node, or a provider's key, anywhere else.
  for (const field of [
    "api_base",
    "base_url",
    "url",
    "endpoint",
    "api_url",
    "proxy",
    "host",
    "callback_url",
    "webhook",
  ])
    add(`a body whose ${field} names another server`, 200, ...whole(chat({ [field]: `http://${canary}/v1` })));
  add(
    "a picture of another server",
    200,
    ...whole(
      JSON.stringify({
        model,
        messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: `http://${canary}/x.png` } }] }],
      }),
    ),
  );
  add("a model that is an address", 404, ...whole(JSON.stringify({ model: `http://${canary}/v1`, messages: [] })));
  add(
    "headers that name another server",
    200,
    head(
      "GET /v1/health",
      `x-forwarded-host: ${canary}`,
      `x-original-url: http://${canary}/`,
      `x-base-url: http://${canary}`,
      `forwarded: host=${canary}`,
    ),
  );
  for (const endpoint of [
    `http://${canary}/x`,
    `//${canary}/x`,
    `///${canary}`,
    "../admin",
    "chat/../../admin",
    "%2e%2e/admin",
    "..%2fadmin",
    "..;/admin",
    "%2E%2E%3bx/admin",
    "..\\admin",
    "%5c..%5cadmin",
    "a b",
    "a\r\nx: y",
    "a\0",
    "a%00",
    "a%",
    "\u00e9",
    "#x",
    `@${canary}/`,
    `.`,
  ]) {
    const query = `model=${model}&endpoint=${encodeURIComponent(endpoint)}`;
    const stays = endpoint.startsWith("@");
    add(
      `an endpoint such as ${JSON.stringify(endpoint)}`,
      stays ? 200 : 400,
      ...whole(chat(), `/v1/request/${provider}?${query}`),
    );
  }
  return list;
}
