import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { SignJWT, type JWTPayload } from "jose";
import { beforeAll, describe, expect, it } from "vitest";
import { KEY, leaks, PROMPT, REPLY } from "../kit/canary.ts";
import { endOfFile } from "../kit/clean.ts";
import { post, type Asked, type Got } from "../kit/client.ts";
import { projectFolder } from "../kit/config.ts";
import { dataDir, listed, startConfig } from "../kit/nodes.ts";
import { connectOldProvider, type OldProvider } from "../kit/old-provider.ts";
import { receiveSpans, type Receiver } from "../kit/otlp.ts";
import { runAimo, type AimoProcess } from "../kit/process.ts";
import {
  chat,
  createUpstream,
  cut,
  event,
  events,
  hang,
  json,
  raw,
  refusal,
  whole,
  type Answer,
  type Upstream,
} from "../kit/upstream.ts";
import { wallet } from "../kit/wallet.ts";
import { openSocket } from "../kit/websocket.ts";

const CLIENT_KEY = `${KEY}-of-the-client`;
const UPSTREAM_KEY = `${KEY}-of-the-upstream`;
const LIMITED_KEY = `${KEY}-for-one-call-a-minute`;
const ISSUER_SECRET = `${KEY}-with-which-the-issuer-signs`;
const BODY = { model: "test-model", max_tokens: 100, messages: [{ role: "user", content: `${PROMPT} Hello` }] };
const QUOTED = `no good: "${PROMPT} Hello", sent with ${UPSTREAM_KEY}`;
const HOOKS = [
  "client:admit",
  "call:start",
  "call:route",
  "call:attempt",
  "call:chunk",
  "call:attempted",
  "call:receipt",
  "call:end",
  "frame:request",
  "frame:response",
  "frame:chunk",
  "frame:error",
];

/** In the config of a node: a plugin that throws what a client says in the hook that it says, or lets the node die of it. */
const LEAKY = `
import { anthropicApi, openapi, subscribe, websocketApi } from "aimo/frontends";
import { apiKeys, jwt, overload, rateLimit, trust, walletKeys } from "aimo/guards";
import { ledger, logger, metrics, requestLog, tracing } from "aimo/observers";
import { anthropicToOpenai } from "aimo/translators";

const saying = (args) => args.flatMap((arg) => [arg?.headers, arg?.origin?.headers]).find((each) => each?.["x-fail-in"]);
const failing = (name) => (...args) => {
  const said = saying(args);
  if (said?.["x-fail-in"] === name) throw new Error("a plugin says " + said["x-fail-with"]);
  if (said?.["x-fail-in"] === "node" && name === "call:start")
    setImmediate(() => { throw new Error("a callback says " + said["x-fail-with"]); });
};
const leaky = {
  name: "observer-leaky",
  options: {},
  hooks: Object.fromEntries(${JSON.stringify(HOOKS)}.map((name) => [name, failing(name)])),
};`;

/** How a client asks; the text is all that it gets. */
const forms = {
  "openai, streaming": { path: "/v1/chat/completions", body: { ...BODY, stream: true } },
  openai: { path: "/v1/chat/completions", body: BODY },
  "anthropic, streaming": { path: "/v1/messages", body: { ...BODY, stream: true } },
  aimo: { path: "/v1/request/any?type=openai.chat", body: { ...BODY, stream: true } },
} as const;

/** What an upstream may do to it. */
const upstreams: Record<string, Answer> = {
  answers: (exchange) => chat([REPLY])(exchange),
  "refuses with 400, and quotes prompt and key": refusal(400, QUOTED),
  "refuses with 401, and quotes prompt and key": refusal(401, QUOTED),
  "fails with 500, and quotes prompt and key": refusal(500, QUOTED),
  "fails with a page that quotes prompt and key": whole(`<h1>${QUOTED}</h1>`, "text/html", { status: 502 }),
  "answers with a page": whole(`<h1>${PROMPT}</h1>`, "text/html"),
  "streams an error that quotes prompt and key": raw([`data: ${JSON.stringify({ error: { message: QUOTED } })}\n\n`]),
  "streams a word, and then an error": raw([
    event({ content: REPLY }),
    `data: ${JSON.stringify({ error: { message: PROMPT } })}\n\n`,
  ]),
  "answers with broken JSON": whole(`{"choices": ${PROMPT} ${REPLY}`, "application/json"),
  "streams broken JSON": raw([`data: {"choices": ${PROMPT} ${REPLY}\n\n`]),
  "breaks off": cut(events([REPLY]).slice(0, 2)),
  "breaks off before its first word": cut([]),
  "answers with nothing": json({}),
};

describe("of a gateway and a provider's node with everything on", () => {
  const cleanup = endOfFile();
  const folders: string[] = [];
  const tokens: string[] = [];
  let receiver: Receiver;
  let upstream: Upstream;
  let gateway: AimoProcess;
  let provider: AimoProcess;

  function start(service: string, plugins: string, rest = ""): Promise<AimoProcess> {
    const folder = dataDir();
    folders.push(folder);
    return startConfig(
      `plugins: [
        logger({ level: "debug" }), metrics({ port: 0 }), tracing(), trust(), ledger(), overload(),
        rateLimit({ client: { requests: 100_000, tokens: 10_000_000 } }), ${plugins}, leaky,
        requestLog({ file: "${folder}/calls.jsonl" }),
      ], dataDir: "${folder}", ${rest}`,
      {
        lines: LEAKY,
        cleanup,
        env: {
          NODE_OPTIONS: `--import ${fileURLToPath(new URL("../kit/otel-sdk.ts", import.meta.url))}`,
          OTEL_SERVICE_NAME: service,
          OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: receiver.url,
        },
      },
    );
  }

  const startProvider = (): Promise<AimoProcess> =>
    start(
      "provider",
      `openai({ url: "${upstream.url}", key: "${UPSTREAM_KEY}" }), stream(), pubsub(),
       libp2p({ join: ["${gateway.ready.listen[0]}"] })`,
    );

  beforeAll(async () => {
    receiver = await receiveSpans(cleanup);
    upstream = await createUpstream({ cleanup });
    gateway = await start(
      "gateway",
      `apiKeys({ keys: ["${CLIENT_KEY}", { key: "${LIMITED_KEY}", name: "limited", limits: { requests: 1 } }] }),
       jwt({ issuer: "urn:issuer", audience: "aimo", secret: "${ISSUER_SECRET}" }), http({ port: 0 }), openaiApi({ keepAlive: 50 }), anthropicApi(), aimoApi(),
       websocketApi(), openapi(), anthropicToOpenai(), stream(), pubsub(), roundRobin(),
       libp2p({ listen: ["/ip4/127.0.0.1/tcp/0"] })`,
      "limits: { body: 65_536 }",
    );
    provider = await startProvider();
    await listed(gateway, provider);
  });

  function ask(form: keyof typeof forms, headers: Record<string, string> = {}, body?: string): Asked {
    const { path, body: usual } = forms[form];
    return post(gateway.api, body ?? usual, {
      path: path.replace("any", provider.ready.peerId),
      headers: { authorization: `Bearer ${CLIENT_KEY}`, ...headers },
    });
  }

  /** What nobody may learn from an answer: the keys, and of one that the node itself wrote, the prompt. */
  function expectSafe({ status, body, headers }: Got, own = false): void {
    const text = `${JSON.stringify(headers)}\n${body}`;
    expect(leaks(text, [], [CLIENT_KEY, UPSTREAM_KEY, ...(own ? [PROMPT] : [])]), `${status}`).toEqual([]);
  }

  describe.each(Object.entries(upstreams))("an upstream that %s", (_, answer) => {
    it.each(Object.keys(forms) as (keyof typeof forms)[])("over %s", async (form) => {
      upstream.answer = answer;
      expectSafe(await ask(form).got());
    });

    it("over a WebSocket", async () => {
      upstream.answer = answer;
      const socket = await openSocket(gateway.api, { protocols: ["aimo", `aimo-key.${CLIENT_KEY}`] });
      socket.send({ id: 1, stream: true, ...BODY });
      await socket.whole(1);
      expect(leaks(socket.texts.join("\n"), [], [CLIENT_KEY, UPSTREAM_KEY])).toEqual([]);
    });
  });

  it.each(Object.keys(forms) as (keyof typeof forms)[])("a client that leaves, over %s", async (form) => {
    upstream.answer = hang(events([REPLY]).slice(0, 2));
    const seen = upstream.requests.length;
    const asked = ask(form);
    const { closed } = await upstream.request(seen);
    if (form !== "openai") await asked.seen(REPLY);
    asked.leave();
    await closed;
  });

  it.each(HOOKS)("a plugin that throws the prompt and the key in %s", async (hook) => {
    upstream.answer = hook === "frame:error" ? cut([]) : chat([REPLY]);
    const headers = { "x-fail-in": hook, "x-fail-with": `${PROMPT} ${CLIENT_KEY}` };
    for (const form of ["openai, streaming", "anthropic, streaming", "aimo"] as const)
      expectSafe(await ask(form, headers).got(), true);
  });

  it.each([
    ["broken JSON", `{"messages": "${PROMPT}`],
    ["JSON with words behind it", `{}${PROMPT}`],
    ["no JSON", PROMPT],
    ["JSON of another form", JSON.stringify({ ...BODY, messages: PROMPT })],
    ["the prompt as the name of a field", JSON.stringify({ ...BODY, stream: { [PROMPT]: PROMPT } })],
    ["too much", JSON.stringify({ ...BODY, more: `${PROMPT} `.repeat(10_000) })],
  ])("a request that is %s", async (_, body) => {
    upstream.answer = refusal(400, "It cannot be read.");
    for (const form of Object.keys(forms) as (keyof typeof forms)[]) expectSafe(await ask(form, {}, body).got(), true);
    const socket = await openSocket(gateway.api, { protocols: ["aimo", `aimo-key.${CLIENT_KEY}`] });
    const { promise, resolve } = Promise.withResolvers<void>();
    socket.ws.once("message", () => resolve());
    void socket.closed.then(() => resolve());
    socket.send(body);
    await promise;
    expect(leaks(socket.texts.join("\n"), [], [PROMPT, CLIENT_KEY])).toEqual([]);
  });

  it("a key that is wrong, wherever it stands", async () => {
    const wrong = `${KEY}-that-is-wrong`;
    for (const headers of [
      { authorization: `Bearer ${wrong}` },
      { authorization: `Basic ${Buffer.from(wrong).toString("base64")}` },
      { authorization: wrong },
      { authorization: "", "x-api-key": wrong },
    ]) {
      const got = await ask("openai", headers).got();
      expect(got.status).toBe(401);
      expect(leaks(got.body, [], [wrong, PROMPT])).toEqual([]);
    }
    await expect(openSocket(gateway.api, { protocols: ["aimo", `aimo-key.${wrong}`] })).rejects.toThrow(/401/);
  });

  it("a token that is good, and ones that are not", async () => {
    upstream.answer = chat([REPLY]);
    const claims = { email: `${KEY}@example`, note: PROMPT };
    const sign = (more: JWTPayload = {}, secret = ISSUER_SECRET): Promise<string> =>
      new SignJWT({ iss: "urn:issuer", aud: "aimo", sub: "someone", exp: Date.now() / 1_000 + 600, ...claims, ...more })
        .setProtectedHeader({ alg: "HS256" })
        .sign(Buffer.from(secret));
    for (const [status, token] of [
      [200, await sign()],
      [401, await sign({}, `${ISSUER_SECRET}-not`)],
      [401, await sign({ exp: 1 })],
      [401, await sign({ aud: PROMPT })],
      [401, await sign({ iss: PROMPT })],
      [401, `${await sign()}${KEY}`],
    ] as const) {
      tokens.push(token);
      const got = await ask("openai", { authorization: `Bearer ${token}` }).got();
      expect(got.status).toBe(status);
      expect(leaks(got.body, [token], [KEY, PROMPT])).toEqual([]);
    }
  });

  it("a client whose limit is used up", async () => {
    upstream.answer = chat([REPLY]);
    const headers = { authorization: `Bearer ${LIMITED_KEY}` };
    expectSafe(await ask("openai", headers).got());
    const refused = await ask("openai", headers).got();
    expect(refused.status).toBe(429);
    expect(leaks(JSON.stringify(refused), [], [LIMITED_KEY, PROMPT])).toEqual([]);
  });

  it("a provider that is killed in the middle of a reply", async () => {
    upstream.answer = hang(events([REPLY]).slice(0, 2));
    const asked = ask("openai, streaming");
    await asked.seen(REPLY);
    provider.kill("SIGKILL");
    expectSafe(await asked.got());
    provider = await startProvider();
    await listed(gateway, provider);
  });

  // The last one: it looks at all that the others left.
  it("nothing is left in logs, metrics, traces and files, also after a stop in the middle of a reply", async () => {
    upstream.answer = hang(events([REPLY]).slice(0, 2));
    const asked = ask("openai, streaming");
    await asked.seen(REPLY);
    const scraped: string[] = [];
    for (const { stderr } of [gateway, provider]) {
      const { url } = JSON.parse(stderr.split("\n").find((line) => line.includes('"msg":"metrics"')) ?? "{}") as {
        url: string;
      };
      const text = await (await fetch(url)).text();
      expect(text).toContain("aimo_info{");
      scraped.push(text);
    }
    asked.leave();
    const exits = await Promise.all([gateway.stop(), provider.stop()]);
    expect(exits.map(({ code }) => code)).toEqual([0, 0]);

    const files = folders.flatMap((folder) =>
      readdirSync(folder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map(({ parentPath, name }) => join(parentPath, name)),
    );
    expect(files.filter((file) => file.endsWith("calls.jsonl"))).toHaveLength(3);
    expect(files.filter((file) => file.endsWith("aimo.db"))).toHaveLength(3);
    const seen = Object.entries({
      spans: receiver.text,
      metrics: scraped.join("\n"),
      output: exits.map(({ stdout, stderr }) => stdout + stderr).join("\n"),
      ...Object.fromEntries(files.map((file) => [file, readFileSync(file, "latin1")])),
    });
    expect(receiver.spans.length).toBeGreaterThan(100);
    expect(seen.filter(([, text]) => text.length > 1_000).length).toBeGreaterThan(4);
    expect(seen.flatMap(([where, text]) => leaks(text, tokens).map((leak) => `${where}: ${leak}`))).toEqual([]);
  });
});

it("a node that dies of an error that holds the prompt says where it happened, and not what", async () => {
  const upstream = await createUpstream();
  const node = await startConfig(
    `plugins: [logger({ level: "debug" }), http({ port: 0 }), openaiApi(), openai({ url: "${upstream.url}" }), leaky]`,
    { lines: LEAKY },
  );
  const headers = { "x-fail-in": "node", "x-fail-with": `${PROMPT} ${CLIENT_KEY}` };
  await post(node.api, BODY, { headers })
    .got()
    .catch(() => undefined);
  const { code, stdout, stderr } = await node.exit;
  expect(code).toBe(1);
  expect(stderr).toMatch(/uncaught Error at .*aimo\.config/);
  expect(leaks(stdout + stderr)).toEqual([]);
});

it("a gateway of the forerunner's providers", async () => {
  const [alice, bob] = [wallet(7), wallet(8)];
  const keys = [alice.key(), bob.key()];
  const node = await startConfig(
    `plugins: [logger({ level: "debug" }), http({ port: 0 }), openaiApi(), walletKeys({ wallets: "any" }), subscribe(), leaky],
     timeouts: { firstChunk: 1_000 }`,
    { lines: LEAKY },
  );
  let answer: (request: OldProvider["requests"][number], self: OldProvider) => void = () => undefined;
  await connectOldProvider(node.api, keys[0] as string, (request, self) => answer(request, self));
  const ask = (): Promise<Got> =>
    post(node.api, { ...BODY, model: `${alice.id}:m` }, { headers: { authorization: `Bearer ${keys[1]}` } }).got();
  const piece = { payload: "", headers: {} };
  for (const each of [
    (request, self) => self.stream(request, events([REPLY])),
    (request, self) => self.send(request, { ...piece, payload: QUOTED, status_code: 500 }),
    (request, self) => self.stream(request, [event({ content: REPLY })], true),
    (_, self) => self.socket.send(`{"request_id": ${PROMPT} ${REPLY}`),
  ] as (typeof answer)[]) {
    answer = each;
    expect(leaks((await ask()).body, [], keys)).toEqual([]);
  }
  const { stdout, stderr } = await node.stop();
  expect(leaks(stdout + stderr, keys)).toEqual([]);
});

describe("what commands say of a config", () => {
  const config = (plugins: string, rest = ""): string =>
    projectFolder({
      "aimo.config.ts": `import { defineConfig } from "aimo";
import { http, openaiApi } from "aimo/frontends";
import { apiKeys } from "aimo/guards";
import { openai } from "aimo/providers";
export default defineConfig({ plugins: [${plugins}], ${rest} });\n`,
    });

  it.each(["config", "plugins", "check", "doctor"])("aimo %s shows no key of one that is right", async (command) => {
    const upstream = await createUpstream({ answer: refusal(401, `There is no key ${UPSTREAM_KEY}.`) });
    const cwd = config(
      `http({ port: 0 }), openaiApi(), apiKeys({ keys: ["${CLIENT_KEY}"] }),
       openai({ url: "${upstream.url}", key: "${UPSTREAM_KEY}", headers: { "x-token": "${UPSTREAM_KEY}" } })`,
    );
    for (const json of [[], ["--json"]]) {
      const { stdout, stderr } = await runAimo([command, ...json], { cwd });
      expect(stdout + stderr).toContain(command === "doctor" ? "test-model" : command === "check" ? "" : "api-keys");
      expect(leaks(stdout + stderr)).toEqual([]);
    }
  });

  it.each([
    ["an option that there is not", `apiKeys({ kees: ["${KEY}"] })`],
    ["a key that is none", `apiKeys({ keys: [["${KEY}"]] })`],
    ["a key in the place of keys", `apiKeys({ keys: "${KEY}" })`],
    ["a key in the place of a port", `http({ port: "${KEY}" })`],
    ["a key in the place of a URL", `openai({ url: "${KEY}" })`],
    ["a key in the place of options", `openai("${KEY}")`],
    ["a key in a URL that is none", `openai({ url: "http://user:${KEY}@[1/v1" })`],
    ["a key that is followed by rubbish", `openai({ url: "http://127.0.0.1:1/v1", key: "${KEY}" rubbish })`],
    ["a key in quotes that have no end", `openai({ url: "http://127.0.0.1:1/v1", key: "${KEY} })`],
  ])("a config with %s is refused without it", async (_, plugins) => {
    for (const command of ["start", "check", "config"]) {
      const { code, stdout, stderr } = await runAimo([command], { cwd: config(plugins) });
      expect(code).not.toBe(0);
      expect(leaks(stdout + stderr)).toEqual([]);
    }
  });
});
