import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { UnsecuredJWT, SignJWT } from "jose";
import { describe, expect, it, onTestFinished } from "vitest";
import {
  createNode,
  systemRuntime,
  type AimoError,
  type AimoNode,
  type Allowance,
  type NewRequest,
  type Origin,
  type Plugin,
  type Runtime,
  type Scope,
} from "../../../core/index.ts";
import { http, openaiApi, websocketApi } from "../../../plugins/frontends/index.ts";
import { apiKeys, jwt, walletKeys, type JwtOptions } from "../../../plugins/guards/index.ts";
import { expectClean } from "../../kit/clean.ts";
import { AUDIENCE, issuer, signingKey, type Issuer, type SigningKey } from "../../kit/issuer.ts";
import { provider, whole } from "../../kit/local.ts";
import { openSocket } from "../../kit/websocket.ts";
import { wallet } from "../../kit/wallet.ts";
import { chat, collect, origin } from "../../suites/index.ts";

/** A clock that can be put forward. */
interface Clock extends Runtime {
  forward(ms: number): void;
  /** From now on timers take a hundredth of their time: for servers that never answer. */
  hurry(): void;
}

function clock(): Clock {
  let ahead = 0;
  let pace = 1;
  return {
    ...systemRuntime,
    now: () => systemRuntime.now() + ahead,
    setTimeout: (ms, then) => systemRuntime.setTimeout(ms / pace, then),
    forward: (ms) => void (ahead += ms),
    hurry: () => void (pace = 100),
  };
}

interface Line {
  readonly level: string;
  readonly message: string;
  readonly fields: object;
}

/** Keeps what is logged. */
function lines(): Plugin & { readonly said: Line[] } {
  const said: Line[] = [];
  const plugin: Plugin = {
    name: "observer-lines",
    enforce: "pre",
    provides: ["log"],
    setup: (node) => node.provide("log", (level, message, fields) => void said.push({ level, message, fields })),
  };
  return Object.defineProperty(plugin, "said", { value: said }) as ReturnType<typeof lines>;
}

interface Started {
  readonly node: AimoNode;
  readonly idp: Issuer;
  readonly time: Clock;
  readonly log: readonly Line[];
}

async function start(options: Partial<JwtOptions> = {}, idp?: Issuer, time = clock()): Promise<Started> {
  const from = idp ?? (await issuer());
  const log = lines();
  const given = { issuer: from.url, audience: AUDIENCE, ...options };
  const node = await createNode({ plugins: [log, jwt(given), provider("p", whole("{}"))] }, time);
  onTestFinished(() => node.close());
  return { node, idp: from, time, log: log.said };
}

/** The same with an HTTP API. */
async function serve(): Promise<{ idp: Issuer; api: string; time: Clock }> {
  const [idp, time] = [await issuer(), clock()];
  const guard = jwt({ issuer: idp.url, audience: AUDIENCE });
  const plugins = [guard, http({ port: 0 }), openaiApi(), websocketApi(), provider("p", whole("{}"))];
  const node = await createNode({ plugins }, time);
  onTestFinished(() => node.close());
  return { idp, time, api: node.use("http").url as string };
}

async function admit(node: AimoNode, key: string, scope: Scope = "call"): Promise<Origin> {
  const from = origin({ headers: { authorization: `Bearer ${key}` } });
  await node.admit(from, scope);
  return from;
}

async function refusal(run: () => unknown): Promise<AimoError> {
  try {
    await run();
  } catch (error) {
    return error as AimoError;
  }
  throw new Error("It was not refused.");
}

function critical({ url, keys: [key] }: Issuer): Promise<string> {
  const { alg, kid, secret } = key as SigningKey;
  return new SignJWT({ iss: url, aud: AUDIENCE, sub: "alice", exp: seconds(60_000) })
    .setProtectedHeader({ alg, kid, crit: ["x"], x: 1 })
    .sign(secret, { crit: { x: true } });
}

const seconds = (ms: number): number => Math.floor((systemRuntime.now() + ms) / 1_000);
const encoded = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

describe("admits", () => {
  it.each(["RS256", "PS256", "ES256", "EdDSA", "Ed25519"])("tokens signed with %s", async (alg) => {
    const idp = await issuer(await signingKey("k", alg));
    const { node } = await start({}, idp);
    expect((await admit(node, await idp.token())).client).toBe(`${idp.url}#alice`);
  });

  it("by the keys of a URL that the config names, without asking for more", async () => {
    const idp = await issuer();
    const { node } = await start({ jwks: idp.jwks }, idp);
    await admit(node, await idp.token());
    expect(idp.asked).toEqual(["/keys"]);
  });

  it("by keys that the config holds, without asking anybody", async () => {
    const idp = await issuer();
    const { node } = await start({ jwks: { keys: idp.keys.map(({ jwk }) => jwk) } }, idp);
    await admit(node, await idp.token());
    expect(idp.asked).toEqual([]);
  });

  it("by a secret, only what is signed with it", async () => {
    const secret = "0123456789abcdef0123456789abcdef";
    const sign = (key: string): Promise<string> =>
      new SignJWT({ iss: "me", aud: AUDIENCE, sub: "bob", exp: seconds(60_000) })
        .setProtectedHeader({ alg: "HS256" })
        .sign(Buffer.from(key));
    const { node } = await start({ issuer: "me", secret });
    expect((await admit(node, await sign(secret))).client).toBe("me#bob");
    expect(await refusal(async () => admit(node, await sign(`${secret}0`)))).toMatchObject({ code: "UNAUTHORIZED" });
  });

  it("a token in x-api-key, one that is for several, and one of the type at+jwt", async () => {
    const { node, idp } = await start();
    const key = await idp.token({ aud: ["https://other.example", AUDIENCE] }, { typ: "at+jwt" });
    const from = origin({ headers: { "x-api-key": key } });
    await node.admit(from, "call");
    expect(from.client).toBe(`${idp.url}#alice`);
  });

  it("peers and the node itself without one", async () => {
    const { node } = await start();
    for (const kind of ["peer", "local"] as const) await node.admit(origin({ kind }), "call");
  });

  it("the same token again without checking its signature anew", async () => {
    const { node, idp } = await start();
    const key = await idp.token();
    await admit(node, key);
    const from = origin({ headers: { authorization: `Bearer ${key}` } });
    expect(node.admit(from, "call")).toBeUndefined(); // no promise: nothing to wait for
    expect(from.client).toBe(`${idp.url}#alice`);
  });

  it("under the claim that the config names", async () => {
    const { node, idp } = await start({ client: "azp" });
    expect((await admit(node, await idp.token({ azp: "batch" }))).client).toBe(`${idp.url}#batch`);
    for (const azp of [undefined, 7, "", "a\nb", "x".repeat(257)])
      expect(await refusal(async () => admit(node, await idp.token({ azp })))).toMatchObject({
        code: "UNAUTHORIZED",
        message: expect.stringContaining("azp"),
      });
  });
});

describe("refuses", () => {
  const cases: [string, (idp: Issuer) => string | Promise<string>, RegExp][] = [
    ["no token", () => "", /wants a token/],
    ["what is no token", () => "sk-plain-0123456789", /wants a token/],
    ["a token of another issuer", (idp) => idp.token({ iss: "https://evil.example" }), /not of an issuer/],
    ["a token without issuer", (idp) => idp.token({ iss: undefined }), /not of an issuer/],
    ["a token for another audience", (idp) => idp.token({ aud: "https://other.example" }), /not for an audience/],
    ["a token for nobody", (idp) => idp.token({ aud: undefined }), /not for an audience/],
    ["an expired token", (idp) => idp.token({ exp: seconds(-61_000) }), /has expired/],
    ["a token without end", (idp) => idp.token({ exp: undefined }), /wrong claim `exp`, or lacks it/],
    ["a token of tomorrow", (idp) => idp.token({ nbf: seconds(86_400_000) }), /not valid yet/],
    ["a logout token", (idp) => idp.token({}, { typ: "logout+jwt" }), /no access token/],
    ["an ID token", (idp) => idp.token({ at_hash: "abc" }), /is an ID token/],
    ["Keycloak's ID token", (idp) => idp.token({ typ: "ID" }), /is an ID token/],
    ["a token with an unknown critical header", critical, /cannot be checked/],
    [
      "a key of the right name that is another",
      async (idp) => idp.token({}, {}, await signingKey("first")),
      /wrong signature/,
    ],
    [
      "a key that the issuer does not have",
      async (idp) => idp.token({}, {}, await signingKey("other")),
      /does not have/,
    ],
    [
      "the unsigned form",
      (idp) => new UnsecuredJWT({ iss: idp.url, aud: AUDIENCE, sub: "alice" }).setExpirationTime("5m").encode(),
      /signed in a way/,
    ],
  ];

  it.each(cases)("%s", async (_, make, why) => {
    const { node, idp } = await start();
    const { code, message } = await refusal(async () => admit(node, await make(idp)));
    expect({ code, message }).toEqual({ code: "UNAUTHORIZED", message: expect.stringMatching(why) });
  });

  it("a token of which anything was changed", async () => {
    const { node, idp } = await start();
    const [header, payload = "", signature] = (await idp.token()).split(".");
    const claims = JSON.parse(Buffer.from(payload, "base64url").toString()) as object;
    const changed = [
      `${header}.${encoded({ ...claims, sub: "root" })}.${signature}`,
      `${header}.${payload}.`,
      `${header}.${payload}.${signature?.slice(0, -4)}AAAA`,
      `${header}.${payload}.${signature}.${signature}`,
      `${header}.${payload}`,
      `${encoded({ alg: "none" })}.${payload}.`,
      `${encoded({ alg: "None" })}.${payload}.${signature}`,
      `${encoded({})}.${payload}.${signature}`,
      `AAAA.${payload}.${signature}`,
    ];
    for (const key of changed) expect(await refusal(() => admit(node, key))).toMatchObject({ code: "UNAUTHORIZED" });
  });

  it("HS256 with the issuer's public key as the secret, which anybody has", async () => {
    const { node, idp } = await start();
    const [{ pem, jwk }] = idp.keys as [(typeof idp.keys)[0]];
    for (const secret of [pem, pem.trim(), JSON.stringify(jwk)]) {
      const forged = await new SignJWT({ iss: idp.url, aud: AUDIENCE, sub: "root", exp: seconds(60_000) })
        .setProtectedHeader({ alg: "HS256", kid: "first" })
        .sign(Buffer.from(secret));
      expect(await refusal(() => admit(node, forged))).toMatchObject({ code: "UNAUTHORIZED" });
    }
  });

  it("keys that are named like files or queries, and asks for none of them", async () => {
    const { node, idp } = await start({}, await issuer());
    await admit(node, await idp.token());
    const before = idp.asked.length;
    const key = await signingKey("mallory");
    for (const kid of ["../../../../dev/null", "' OR 1=1 --", "__proto__", "constructor", "http://127.0.0.1/k", ""])
      expect(await refusal(async () => admit(node, await idp.token({}, { kid }, key)))).toMatchObject({
        code: "UNAUTHORIZED",
      });
    expect(idp.asked.length).toBe(before);
  });

  it("keys that a token brings along or points to, and never goes there", async () => {
    let visits = 0;
    const canary = createServer((_, res) => (visits++, res.end()));
    canary.on("connection", () => visits++);
    await new Promise<void>((resolve) => canary.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => void canary.close());
    const url = `http://127.0.0.1:${(canary.address() as AddressInfo).port}/keys`;
    const { node, idp, time } = await start();
    const key = await signingKey("mallory");
    const x5c = ["MIIB"];
    for (const header of [
      { jwk: key.jwk },
      { jku: url },
      { x5u: url },
      { x5c },
      { kid: "first", jwk: key.jwk, jku: url },
    ]) {
      time.forward(60_000);
      expect(await refusal(async () => admit(node, await idp.token({}, header, key)))).toMatchObject({
        code: "UNAUTHORIZED",
      });
    }
    expect(visits).toBe(0);
  });

  it("a token above 8,192 bytes without reading it", async () => {
    const { node, idp } = await start();
    const fits = await idp.token({ more: "x".repeat(5_500) });
    expect(fits.length).toBeLessThan(8_192);
    await admit(node, fits);
    const long = await idp.token({ more: "x".repeat(6_200) });
    expect(long.length).toBeGreaterThan(8_192);
    expect(await refusal(() => admit(node, long))).toMatchObject({ code: "UNAUTHORIZED" });
  });

  it("takes the skew into account to the second", async () => {
    const { node, idp, time } = await start({ skew: 30_000 });
    const now = seconds(0);
    await admit(node, await idp.token({ exp: now - 28 }));
    expect(await refusal(async () => admit(node, await idp.token({ exp: now - 31 })))).toMatchObject({
      message: expect.stringContaining("has expired"),
    });
    await admit(node, await idp.token({ nbf: now + 30 }));
    expect(await refusal(async () => admit(node, await idp.token({ nbf: now + 40 })))).toMatchObject({
      message: expect.stringContaining("not valid yet"),
    });
    const known = await idp.token({ exp: now + 60 });
    await admit(node, known);
    time.forward(85_000);
    await admit(node, known);
    time.forward(6_000);
    expect(await refusal(() => admit(node, known))).toMatchObject({ message: expect.stringContaining("has expired") });
  });

  it("a call whose token ended while its body was read", async () => {
    const { node, idp, time } = await start();
    const from = await admit(node, await idp.token());
    expect((await collect(node, chat("m"), { origin: from })).outcome.status).toBe("ok");
    time.forward(400_000);
    expect((await collect(node, chat("m"), { origin: from })).outcome.error).toMatchObject({ code: "UNAUTHORIZED" });
  });
});

describe("the issuer's keys", () => {
  it("are fetched anew for a key that is not known yet, at most once in 30 s", async () => {
    const { node, idp, time } = await start();
    await admit(node, await idp.token());
    const second = await signingKey("second");
    idp.keys.push(second);
    const before = idp.asked.length;
    expect(await refusal(async () => admit(node, await idp.token({}, {}, second)))).toMatchObject({
      code: "UNAUTHORIZED",
    });
    expect(idp.asked.length).toBe(before);
    time.forward(30_000);
    await admit(node, await idp.token({}, {}, second));
    const other = await signingKey("other");
    const forged = await Promise.all(Array.from({ length: 50 }, (_, i) => idp.token({}, { kid: `k${i}` }, other)));
    time.forward(30_000);
    const after = idp.asked.length;
    await Promise.all(forged.map((key) => refusal(() => admit(node, key))));
    expect(idp.asked.slice(after)).toEqual(["/.well-known/openid-configuration", "/keys"]);
  });

  it("that are withdrawn take their tokens with them, cached ones too", async () => {
    const { node, idp, time } = await start({ skew: 0 });
    const old = await idp.token({ exp: seconds(86_400_000) });
    await admit(node, old);
    idp.keys = [await signingKey("second")];
    time.forward(600_000);
    const end = (): Promise<string> =>
      admit(node, old).then(
        () => "admitted",
        ({ message }: AimoError) => message,
      );
    expect(await end()).toBe("admitted"); // and in the background the keys are fetched
    await expect.poll(end).toContain("with a key that its issuer does not have");
  });

  it("go on while their server is down, and a token with an unknown one is told to come later", async () => {
    const { node, idp, time, log } = await start();
    const long = { exp: seconds(86_400_000) };
    await admit(node, await idp.token(long));
    await idp.stop();
    time.forward(1_200_000);
    await admit(node, await idp.token({ ...long, sub: "bob" }));
    const unknown = await idp.token(long, {}, await signingKey("second"));
    const [known, ...refusals] = await Promise.all([
      admit(node, await idp.token({ ...long, sub: "carol" })),
      ...Array.from({ length: 20 }, () => refusal(() => admit(node, unknown))),
    ]);
    expect(known.client).toContain("#carol");
    for (const each of refusals)
      expect(each).toMatchObject({ code: "OVERLOADED", status: 503, data: { retryAfter: 5_000 } });
    expect(log.filter(({ level }) => level === "warn")).toHaveLength(1);
  });

  it("that were never there are OVERLOADED, with one fetch for all who wait, until they are", async () => {
    const idp = await issuer();
    const key = await idp.token();
    await idp.stop();
    const { node, time } = await start({}, idp);
    for (const each of await Promise.all(Array.from({ length: 20 }, () => refusal(() => admit(node, key)))))
      expect(each).toMatchObject({ code: "OVERLOADED", status: 503, data: { retryAfter: 5_000 } });
    await idp.start();
    expect(await refusal(() => admit(node, key))).toMatchObject({ code: "OVERLOADED" });
    expect(idp.asked).toEqual([]);
    time.forward(5_000);
    await Promise.all(Array.from({ length: 20 }, () => admit(node, key)));
    expect(idp.asked).toEqual(["/.well-known/openid-configuration", "/keys"]);
  });

  const MB = "x".repeat(1_048_576);
  const wrong: [string, NonNullable<Issuer["answer"]>][] = [
    ["never answers", () => undefined],
    ["never ends its answer", (_, res) => void res.writeHead(200).write("{")],
    ["answers with garbage", (_, res) => void res.end("<html>keys</html>")],
    ["answers with JSON that is no object", (_, res) => void res.end("null")],
    ["answers with no keys", (_, res) => void res.end('{"keys":"all"}')],
    ["answers with an error", (_, res) => void res.writeHead(500).end('{"keys":[]}')],
    ["redirects", (_, res) => void res.writeHead(302, { location: "/keys?moved" }).end()],
    ["answers with 10 MB", (_, res) => void res.end(`{"keys":[],"more":"${MB.repeat(10)}"}`)],
  ];

  it.each(wrong)("of a server that %s are OVERLOADED, and nothing hangs", async (what, answer) => {
    expectClean();
    const idp = await issuer();
    const first = idp.keys[0];
    idp.answer = answer;
    const key = await idp.token({}, {}, first);
    const time = clock();
    if (what.startsWith("never")) time.hurry();
    const { node, log } = await start({ jwks: idp.jwks }, idp, time);
    expect(await refusal(() => admit(node, key))).toMatchObject({ code: "OVERLOADED", status: 503 });
    expect(idp.asked).not.toContain("/keys?moved");
    expect(JSON.stringify(log)).not.toContain("html");
  });

  it.each(wrong)("stay as they are when their server later %s", async (what, answer) => {
    const { node, idp, time } = await start();
    const long = { exp: seconds(86_400_000) };
    await admit(node, await idp.token(long));
    idp.answer = answer;
    if (what.startsWith("never")) time.hurry();
    time.forward(600_000);
    await admit(node, await idp.token({ ...long, sub: "bob" }));
    const unknown = await idp.token(long, {}, await signingKey("second"));
    expect(await refusal(() => admit(node, unknown))).toMatchObject({ code: "OVERLOADED" });
    await admit(node, await idp.token({ ...long, sub: "carol" }));
  });

  it("of a discovery document about another issuer are not taken", async () => {
    const idp = await issuer();
    idp.answer = (req, res) =>
      void res.end(
        JSON.stringify(
          req.url === "/keys"
            ? { keys: idp.keys.map(({ jwk }) => jwk) }
            : { issuer: "https://evil.example", jwks_uri: idp.jwks },
        ),
      );
    const { node, log } = await start({}, idp);
    expect(await refusal(async () => admit(node, await idp.token()))).toMatchObject({ code: "OVERLOADED" });
    expect(JSON.stringify(log)).toContain("another issuer");
    expect(idp.asked).not.toContain("/keys");
  });
});

describe("beside other guards", () => {
  const KEY = "sk-plain-0123456789";
  const alice = wallet(7);
  /** All orders of three. */
  const orders = [
    [0, 1, 2],
    [0, 2, 1],
    [1, 0, 2],
    [1, 2, 0],
    [2, 0, 1],
    [2, 1, 0],
  ];

  it.each(orders)(
    "each key is judged by its own guard, in the order %i %i %i, and what is nobody's is refused",
    async (...order) => {
      const idp = await issuer();
      const guards = [
        jwt({ issuer: idp.url, audience: AUDIENCE }),
        apiKeys({ keys: [KEY] }),
        walletKeys({ wallets: [alice.id] }),
      ];
      await using node = await createNode({ plugins: order.map((each) => guards[each] as Plugin) });
      expect((await admit(node, await idp.token())).client).toBe(`${idp.url}#alice`);
      expect((await admit(node, KEY)).client).toMatch(/^key-/);
      expect((await admit(node, alice.key())).client).toBe(alice.id);
      const bad = [
        "",
        "sk-other-0123456789",
        "aimo-sk-dev-1",
        wallet(8).key(),
        await idp.token({ iss: "https://evil.example" }),
        await idp.token({ aud: "other" }),
        await idp.token({ exp: seconds(-100_000) }),
        await idp.token({}, {}, await signingKey("first")),
      ];
      for (const key of bad) expect(await refusal(() => admit(node, key))).toMatchObject({ code: "UNAUTHORIZED" });
    },
  );

  it("of its own kind judges the tokens of its issuer alone, and no two clients have one name", async () => {
    const [one, two] = [await issuer(), await issuer()];
    await using node = await createNode({
      plugins: [
        jwt({ issuer: one.url, audience: AUDIENCE, name: "one" }),
        jwt({ issuer: two.url, audience: AUDIENCE, name: "two" }),
      ],
    });
    expect((await admit(node, await one.token())).client).toBe(`${one.url}#alice`);
    expect((await admit(node, await two.token())).client).toBe(`${two.url}#alice`);
    const crossed = await two.token({ iss: one.url });
    expect(await refusal(() => admit(node, crossed))).toMatchObject({ code: "UNAUTHORIZED" });
    const nobody = await two.token({ iss: "https://evil.example" });
    expect(await refusal(() => admit(node, nobody))).toMatchObject({ code: "UNAUTHORIZED" });
  });
});

describe("a token", () => {
  it("may call and read, and administer only where the config says what that takes", async () => {
    const { node, idp } = await start();
    const plain = await idp.token({ scope: "openid admin" });
    for (const scope of ["call", "read"] as const) await admit(node, plain, scope);
    expect(await refusal(() => admit(node, plain, "admin"))).toMatchObject({
      code: "FORBIDDEN",
      message: expect.stringContaining('"admin"'),
    });
  });

  it("has the scopes that its scope, scp or roles say", async () => {
    const { node, idp } = await start({
      scopes: { call: ["ai.call"], read: ["ai.read"], admin: ["ai.admin", "root"] },
    });
    const may = async (claims: object): Promise<Scope[]> => {
      const key = await idp.token(claims);
      const got: Scope[] = [];
      for (const scope of ["call", "read", "admin"] as const)
        await admit(node, key, scope).then(
          () => got.push(scope),
          (error: AimoError) => expect(error).toMatchObject({ code: "FORBIDDEN", status: 403 }),
        );
      return got;
    };
    expect(await may({})).toEqual([]);
    expect(await may({ scope: "openid ai.read" })).toEqual(["read"]);
    expect(await may({ scope: "openid ai.call profile" })).toEqual(["call", "read"]);
    expect(await may({ scp: ["ai.call"] })).toEqual(["call", "read"]);
    expect(await may({ roles: ["x", "root"] })).toEqual(["call", "read", "admin"]);
    expect(await may({ scope: "ai.call.not ai", roles: { "ai.call": true }, scp: 7 })).toEqual([]);
  });

  it("may call the models that its claims allow, as the config makes of them", async () => {
    const allowance: NonNullable<JwtOptions["allowance"]> = ({ plan }) => ({
      models: plan === "all" ? ["*"] : ["small-*"],
      priority: "low",
    });
    const { node, idp } = await start({ allowance });
    const ask = async (plan: string): Promise<string | undefined> => {
      const from = await admit(node, await idp.token({ plan }));
      expect(from.allowance?.priority).toBe("low");
      return (await collect(node, chat("m"), { origin: from })).outcome.error?.code;
    };
    expect(await ask("all")).toBeUndefined();
    expect(await ask("free")).toBe("FORBIDDEN");
  });

  it("is not admitted where the config makes nothing of its claims that could bind it", async () => {
    for (const wrong of [{ model: ["m"] }, { models: "m" }, null, "all"]) {
      const { node, idp } = await start({ allowance: async () => wrong as never });
      expect(await refusal(async () => admit(node, await idp.token()))).toMatchObject({ code: "PLUGIN_FAILED" });
    }
  });

  it("may neither name another model as a fallback, nor have one chosen for it", async () => {
    const idp = await issuer();
    const allowance = (): Allowance => ({ models: ["small"] });
    const cards = ["small", "large"].map((id) => ({ id, types: ["openai.chat"] }));
    const files = { id: "large", types: ["openai.files"] };
    const handle = whole("{}");
    await using node = await createNode({
      plugins: [
        jwt({ issuer: idp.url, audience: AUDIENCE, allowance }),
        { name: "provider-both", provider: { name: "both", models: cards, handle } },
        { name: "provider-files", provider: { name: "files", models: [files], handle } },
      ],
    });
    const ask = async (request: NewRequest): Promise<string | undefined> =>
      (await collect(node, request, { origin: await admit(node, await idp.token()) })).outcome.error?.code;
    expect(await ask(chat("small"))).toBeUndefined();
    expect(await ask(chat("small", { fallbacks: ["large"] }))).toBe("FORBIDDEN");
    const list = { type: "openai.files", contentType: "", body: Buffer.alloc(0), endpoint: "files", method: "GET" };
    expect(await ask(list)).toBe("FORBIDDEN");
  });

  it("that ends takes its WebSocket's next call with it, and not the socket", async () => {
    const { idp, api, time } = await serve();
    const { send, whole: all } = await openSocket(api, { headers: { authorization: `Bearer ${await idp.token()}` } });
    const ask = async (id: string): Promise<string> => {
      send({ id, model: "m", messages: [{ role: "user", content: "Hello" }] });
      return JSON.stringify(await all(id));
    };
    expect(await ask("one")).not.toContain("unauthorized");
    time.forward(400_000);
    expect(await ask("two")).toContain("unauthorized");
  });

  it("is refused over HTTP as RFC 6750 says, with 401, 403 and 503", async () => {
    const { idp, api, time } = await serve();
    const get = async (key?: string): Promise<[number, string | null, string | null]> => {
      const headers: Record<string, string> = key === undefined ? {} : { authorization: `Bearer ${key}` };
      const { status, headers: got } = await fetch(`${api}/v1/models`, { headers });
      return [status, got.get("www-authenticate"), got.get("retry-after")];
    };
    expect(await get(await idp.token())).toEqual([200, null, null]);
    expect(await get()).toEqual([401, "Bearer", null]);
    expect(await get(await idp.token({ exp: 1 }))).toEqual([401, 'Bearer error="invalid_token"', null]);
    await idp.stop();
    time.forward(30_000);
    expect(await get(await idp.token({}, {}, await signingKey("next")))).toEqual([503, null, "5"]);
  });

  it("and its claims are in no log and no error, whatever is wrong with it", async () => {
    const { node, idp, log } = await start();
    const claims = { email: "alice@example.com", secret: "hush-hush" };
    const keys = [
      await idp.token({ ...claims, exp: seconds(-100_000) }),
      await idp.token({ ...claims, iss: "https://evil.example" }),
      await idp.token(claims, {}, await signingKey("first")),
      await idp.token({ ...claims, sub: undefined }),
      await idp.token({ ...claims, at_hash: "x" }),
    ];
    for (const key of keys) {
      const { message, data, cause } = await refusal(() => admit(node, key));
      const told = JSON.stringify([message, data, cause, log]);
      for (const secret of ["alice", "hush", "evil", key.split(".")[1] as string, key.split(".")[2] as string])
        expect(told).not.toContain(secret);
    }
  });
});

describe("a reload", () => {
  it("takes other terms in place, also for tokens that are known, and keeps keys whose server is down", async () => {
    const idp = await issuer();
    const plugins = (more: Partial<JwtOptions>): Plugin[] => [
      jwt({ issuer: idp.url, audience: AUDIENCE, allowance: () => undefined, ...more }),
    ];
    await using node = await createNode({ plugins: plugins({}) });
    const [old, other] = [await idp.token({ azp: "batch" }), await idp.token({ aud: "other" })];
    expect((await admit(node, old)).client).toBe(`${idp.url}#alice`);
    await idp.stop();
    await node.reload({ plugins: plugins({ client: "azp", scopes: { read: ["x"] } }) });
    expect((await admit(node, old)).client).toBe(`${idp.url}#batch`);
    await node.reload({ plugins: plugins({ audience: "other" }) });
    expect(await refusal(() => admit(node, old))).toMatchObject({ code: "UNAUTHORIZED" });
    expect((await admit(node, other)).client).toBe(`${idp.url}#alice`);
  });

  it("with another place for the keys forgets those that were there", async () => {
    const [one, two] = [await issuer(), await issuer()];
    const plugins = (jwks: string): Plugin[] => [jwt({ issuer: one.url, audience: AUDIENCE, jwks })];
    await using node = await createNode({ plugins: plugins(one.jwks) });
    const key = await one.token();
    await admit(node, key);
    await node.reload({ plugins: plugins(two.jwks) });
    expect(await refusal(() => admit(node, key))).toMatchObject({ code: "UNAUTHORIZED" });
    await admit(node, await two.token({ iss: one.url }));
  });
});

describe("its options", () => {
  const good = { issuer: "https://id.example", audience: AUDIENCE };

  it("want an issuer, an audience and keys of one kind", () => {
    const wrong: object[] = [
      { issuer: "https://id.example" },
      { audience: AUDIENCE },
      { ...good, audience: [] },
      { ...good, issuer: "my issuer" },
      { ...good, issuer: "kubernetes/serviceaccount" },
      { ...good, issuer: "https://id.example#x" },
      { ...good, jwks: "file:///etc/passwd" },
      { ...good, jwks: { keys: "none" } },
      { ...good, jwks: { keys: [{ kty: "oct", k: "c2VjcmV0" }] } },
      { ...good, secret: "short" },
      { ...good, secret: "x".repeat(32), jwks: "https://id.example/keys" },
      { ...good, algorithms: ["none"] },
      { ...good, algorithms: ["HS256"] },
      { ...good, algorithms: [] },
      { ...good, secret: "x".repeat(32), algorithms: ["RS256"] },
      { ...good, skew: -1 },
      { ...good, scopes: { call: [] } },
      { ...good, allowance: {} },
      { ...good, isuer: "x" },
    ];
    for (const options of wrong)
      expect(() => jwt(options as JwtOptions)).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  });

  it("show no secret on the plugin, and differ when it was changed", () => {
    const shown = (secret: string): string => JSON.stringify(jwt({ ...good, secret }).options);
    expect(shown("x".repeat(32))).not.toContain("xxxx");
    expect(shown("x".repeat(32))).toBe(shown("x".repeat(32)));
    expect(shown("x".repeat(32))).not.toBe(shown("y".repeat(32)));
  });

  it("name the plugin, so that there can be several", () => {
    expect(jwt(good).name).toBe("guard-jwt");
    expect(jwt({ ...good, name: "staff" }).name).toBe("guard-jwt:staff");
  });
});

it("starts without waiting for its issuer, provides auth and closes with a fetch under way", async () => {
  expectClean();
  const idp = await issuer();
  const asked = Promise.withResolvers<void>();
  const left = Promise.withResolvers<void>();
  idp.answer = (req) => {
    req.once("close", left.resolve);
    asked.resolve();
  };
  const { node, log } = await start({}, idp);
  expect(node.find("auth")).toBe(true);
  await asked.promise;
  await node.close();
  await left.promise;
  expect(log).toEqual([]);
});
