import { describe, expect, it, onTestFinished } from "vitest";
import {
  createNode,
  systemRuntime,
  type AimoNode,
  type Handler,
  type NodeConfig,
  type Plugin,
  type Runtime,
} from "../../core/index.ts";
import { memory } from "../../plugins/transports/index.ts";
import { pieces, provider, silent, whole } from "../kit/local.ts";
import { chat, collect } from "../suites/build.ts";

const quiet: Plugin = {
  name: "observer-quiet",
  provides: ["log"],
  setup: (node) => node.provide("log", () => undefined),
};

async function start(config: NodeConfig, runtime?: Runtime): Promise<AimoNode> {
  const node = await createNode({ drain: 0, ...config, plugins: [quiet, config.plugins] }, runtime);
  onTestFinished(() => node.close());
  return node;
}

function reload(node: AimoNode, config: NodeConfig): Promise<readonly string[]> {
  return node.reload({ drain: 0, ...config, plugins: [quiet, config.plugins] });
}

/** Notes what becomes of it. */
function noted(log: string[], name: string, options: unknown, more: Partial<Plugin> = {}): Plugin {
  const mark = JSON.stringify(options) ?? "";
  return {
    name,
    ...(options !== undefined && { options }),
    setup: () => void log.push(`setup ${name} ${mark}`),
    close: () => void log.push(`close ${name} ${mark}`),
    ...more,
  };
}

/** A stream that goes on when it is told to. */
function held(): { readonly handle: Handler; readonly begun: Promise<void>; go(): void } {
  const begun = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  const handle: Handler = async (_, reply) => {
    await reply.chunk("first,");
    begun.resolve();
    await go.promise;
    reply.end({ body: "last" });
  };
  return { handle, begun: begun.promise, go: go.resolve };
}

/** Collects what is told of a hook. */
function told(node: AimoNode, name: "config:change" | "catalog:change" | "link:down" | "node:error"): unknown[][] {
  const all: unknown[][] = [];
  node.hook(name, ((...args: unknown[]) => void all.push(args)) as never);
  return all;
}

describe("a plugin", () => {
  it("with the same options stays as it is, and nothing has changed", async () => {
    const log: string[] = [];
    const make = (): NodeConfig => ({ plugins: [noted(log, "a-a", { list: [{ n: 1 }], text: "x" })] });
    const node = await start(make());
    const changes = told(node, "config:change");
    expect(await reload(node, make())).toEqual([]);
    expect(log).toEqual(['setup a-a {"list":[{"n":1}],"text":"x"}']);
    expect(changes).toEqual([]);
  });

  it("with other options is made anew, and the old one closed behind it", async () => {
    const log: string[] = [];
    const node = await start({ plugins: [noted(log, "a-a", { n: 1, m: 0 })] });
    const changes = told(node, "config:change");
    expect(await reload(node, { plugins: [noted(log, "a-a", { n: 2, m: 0 })] })).toEqual(["a-a: n"]);
    await expect
      .poll(() => log)
      .toEqual(['setup a-a {"n":1,"m":0}', 'setup a-a {"n":2,"m":0}', 'close a-a {"n":1,"m":0}']);
    expect(changes).toEqual([[["a-a: n"]]]);
  });

  it("may take other options in place, and is then compared by those", async () => {
    const log: string[] = [];
    const make = (n: number): Plugin =>
      noted(log, "a-a", { n }, { update: ({ options }) => (log.push(`update ${JSON.stringify(options)}`), true) });
    const node = await start({ plugins: [make(1)] });
    expect(await reload(node, { plugins: [make(2)] })).toEqual(["a-a: n"]);
    expect(await reload(node, { plugins: [make(2)] })).toEqual([]);
    expect(log).toEqual(['setup a-a {"n":1}', 'update {"n":2}']);
  });

  it("that cannot take them in place is made anew", async () => {
    const log: string[] = [];
    const make = (n: number): Plugin => noted(log, "a-a", { n }, { update: () => false });
    const node = await start({ plugins: [make(1)] });
    await reload(node, { plugins: [make(2)] });
    await expect.poll(() => log).toEqual(['setup a-a {"n":1}', 'setup a-a {"n":2}', 'close a-a {"n":1}']);
  });

  it("with a function or an instance among its options is the same only if that is the very same", async () => {
    const log: string[] = [];
    class Store {
      readonly kind = "store";
    }
    const handle = (): void => undefined;
    const store = new Store();
    const node = await start({ plugins: [noted(log, "a-a", { handle, store })] });
    expect(await reload(node, { plugins: [noted(log, "a-a", { handle, store })] })).toEqual([]);
    expect(await reload(node, { plugins: [noted(log, "a-a", { handle: () => undefined, store })] })).toEqual([
      "a-a: handle",
    ]);
    expect(await reload(node, { plugins: [noted(log, "a-a", { handle, store: new Store() })] })).toEqual([
      "a-a: handle, store",
    ]);
  });

  it("without options is made anew, unless it is the very same object", async () => {
    const log: string[] = [];
    const same = noted(log, "a-same", undefined);
    const node = await start({ plugins: [same, noted(log, "b-b", undefined)] });
    expect(await reload(node, { plugins: [same, noted(log, "b-b", undefined)] })).toEqual(["b-b: made anew"]);
    expect(log.filter((line) => line.includes("a-same"))).toEqual(["setup a-same "]);
  });

  it("whose own functions were edited is another one, though its options are the same", async () => {
    const before: Plugin = { name: "router-x", options: {}, router: { select: (targets) => targets } };
    const after: Plugin = { name: "router-x", options: {}, router: { select: (targets) => targets.toReversed() } };
    const config = (router: Plugin): NodeConfig => ({
      plugins: [provider("a", whole("a")), provider("b", whole("b")), router],
    });
    const node = await start(config(before));
    expect((await collect(node, chat("m"))).text).toBe("a");
    expect(await reload(node, config(after))).toContain("router-x: made anew");
    expect((await collect(node, chat("m"))).text).toBe("b");
  });

  it("is not asked to take what another source, or nobody, says of it", async () => {
    const update = (): boolean => true;
    const node = await start({ plugins: [{ name: "a-a", options: { n: 1 }, update }] });
    const edited: Plugin = { name: "a-a", options: { n: 2 }, update: () => true, close: () => undefined };
    const log: string[] = [];
    await reload(node, { plugins: [{ ...edited, setup: () => void log.push("edited") }] });
    await reload(node, { plugins: [{ name: "a-a", update, setup: () => void log.push("without options") }] });
    expect(log).toEqual(["edited", "without options"]);
  });

  it("that needs what another plugin gives now is made anew with it, and one behind that, too", async () => {
    const log: string[] = [];
    const make = (n: number): Plugin[] => [
      noted(log, "a-last", {}, { needs: ["log"] as never }),
      noted(log, "b-auth", { n }, { provides: ["auth"] }),
      noted(log, "c-user", {}, { needs: ["auth"], provides: ["chained" as never] }),
      noted(log, "d-second", {}, { needs: ["chained" as never] }),
    ];
    const node = await start({ plugins: make(1) });
    log.length = 0;
    expect(await reload(node, { plugins: make(2) })).toEqual([
      "b-auth: n",
      "c-user: made anew, as b-auth is another",
      "d-second: made anew, as c-user is another",
    ]);
    await expect
      .poll(() => log)
      .toEqual([
        'setup b-auth {"n":2}',
        "setup c-user {}",
        "setup d-second {}",
        "close d-second {}",
        "close c-user {}",
        'close b-auth {"n":1}',
      ]);
  });

  it("that needs a plugin whose options are taken in place stays", async () => {
    const log: string[] = [];
    const make = (n: number): Plugin[] => [
      noted(log, "b-auth", { n }, { provides: ["auth"], update: () => true }),
      noted(log, "c-user", {}, { needs: ["auth"] }),
    ];
    const node = await start({ plugins: make(1) });
    expect(await reload(node, { plugins: make(2) })).toEqual(["b-auth: n"]);
    expect(log).toHaveLength(2);
  });

  it("comes and goes by `disable`, by `null` and by its name", async () => {
    const make = (): Plugin[] => [provider("one", whole("1")), provider("two", whole("2"))];
    const node = await start({ plugins: make(), disable: ["provider-test:two"] });
    const list = make();
    const ids = (): string[] => [...node.targets].map(({ provider: name }) => name);
    expect(ids()).toEqual(["one"]);
    expect(await reload(node, { plugins: list })).toContain("provider-test:two: new");
    expect(ids()).toEqual(["one", "two"]);
    expect(await reload(node, { plugins: list, disable: ["provider-test"] })).toEqual([
      "provider-test:one: off",
      "provider-test:two: off",
    ]);
    expect(ids()).toEqual([]);
    // The same objects once more.
    expect(await reload(node, { plugins: list })).toEqual(["provider-test:one: new", "provider-test:two: new"]);
    expect((await collect(node, chat("m"))).text).toBe("1");
    expect(await reload(node, { plugins: [null, list[1]] })).toEqual(["provider-test:one: off"]);
    expect((await collect(node, chat("m"))).text).toBe("2");
  });

  it("is told that the node is ready when it is new, and that it closes when it goes", async () => {
    const log: string[] = [];
    const make = (n: number): Plugin => ({
      name: "observer-x",
      options: { n },
      hooks: {
        "node:ready": ({ id }) => void log.push(`ready ${n} ${id.length > 0}`),
        "node:close": () => void log.push(`closes ${n}`),
      },
      close: () => void log.push(`closed ${n}`),
    });
    const node = await start({ plugins: [make(1)] });
    await reload(node, { plugins: [make(2)] });
    await expect.poll(() => log).toEqual(["ready 1 true", "ready 2 true", "closes 1", "closed 1"]);
    await reload(node, { plugins: [make(2)] });
    expect(log).toHaveLength(4);
  });
});

describe("what a plugin adds goes with it:", () => {
  it("hooks, those that it made in setup among them", async () => {
    const log: string[] = [];
    const hooked: Plugin = {
      name: "observer-x",
      options: {},
      hooks: { "call:start": () => void log.push("field") },
      setup: (node) => void node.hook("call:start", () => void log.push("setup")),
    };
    const answer = provider("p", whole("x"));
    const node = await start({ plugins: [answer, hooked] });
    await collect(node, chat("m"));
    await reload(node, { plugins: [answer] });
    await collect(node, chat("m"));
    expect(log).toEqual(["field", "setup"]);
  });

  it("services, and one that another plugin gives comes to light again", async () => {
    const lines: string[] = [];
    const log = (name: string): Plugin => ({
      name: `observer-${name}`,
      options: {},
      provides: ["log"],
      setup: (node) => node.provide("log", (_, message) => void lines.push(`${name} ${message}`)),
    });
    const first = log("first");
    const node = await start({ plugins: [first, log("second")] });
    node.log("info", "1");
    await reload(node, { plugins: [first] });
    node.log("info", "2");
    node.provide("auth", true);
    await reload(node, { plugins: [] });
    expect(node.find("auth")).toBe(true);
    expect(lines).toEqual(["second 1", "first 2"]);
  });

  it("the targets of a provider, told as one change; what stays is not told", async () => {
    const node = await start({ plugins: [provider("a", whole("a")), provider("b", whole("b"))] });
    const before = [...node.targets].map(({ id }) => id);
    const changes = told(node, "catalog:change");
    await reload(node, { plugins: [provider("a", whole("a2"), ["m", "n"])] });
    const ids = (list: unknown): string[] => (list as { id: string }[]).map(({ id }) => id);
    expect(changes.map(([added, removed]) => [ids(added), ids(removed)])).toEqual([[[`${node.id}/a/n`], [before[1]]]]);
    expect((await collect(node, chat("m"))).text).toBe("a2");
  });

  it("a translator", async () => {
    const cards = [{ id: "m", types: ["other.type"] }];
    const other: Plugin = {
      name: "provider-other",
      options: {},
      provider: { name: "o", models: cards, handle: whole("o") },
    };
    const bridge: Plugin = {
      name: "translator-x",
      options: {},
      translator: { from: "openai.chat", to: "other.type", wrap: (handle) => handle },
    };
    const node = await start({ plugins: [other] });
    expect((await collect(node, chat("m"))).outcome.error?.code).toBe("MODEL_NOT_FOUND");
    await reload(node, { plugins: [other, bridge] });
    expect((await collect(node, chat("m"))).text).toBe("o");
    await reload(node, { plugins: [other] });
    expect((await collect(node, chat("m"))).outcome.error?.code).toBe("MODEL_NOT_FOUND");
  });

  it("its view of a service, with all that was added through it", async () => {
    const board = new Set<string>();
    const service = (name: string) => ({
      pin: (text: string) => (board.add(`${name} ${text}`), () => board.delete(`${name} ${text}`)),
    });
    const host: Plugin = {
      name: "host-board",
      options: {},
      provides: ["board" as never],
      setup: (node) =>
        (node.provide as (...all: unknown[]) => void)(
          "board",
          service("all"),
          (own: (off: () => void) => () => void) => ({
            pin: (text: string) => own(service("view").pin(text)),
          }),
        ),
    };
    const user = (n: number): Plugin => ({
      name: "x-user",
      options: { n },
      needs: ["board" as never],
      setup: (node) => void (node.use("board" as never) as { pin(text: string): void }).pin(String(n)),
    });
    const node = await start({ plugins: [host, user(1)] });
    expect([...board]).toEqual(["view 1"]);
    await reload(node, { plugins: [host, user(2)] });
    expect([...board]).toEqual(["view 2"]);
    await node.close();
    expect([...board]).toEqual([]);
  });
});

describe("a call that runs", () => {
  it("ends with the handler, the listeners and the routers that it began with; new ones get the new", async () => {
    const log: string[] = [];
    const old = held();
    const watch = (n: number): Plugin => ({
      name: "observer-x",
      options: { n },
      hooks: { "call:end": (_, { status }) => void log.push(`${n} ${status}`) },
    });
    const slow = (n: number, handle: Handler): Plugin => ({
      ...provider("p", handle),
      options: { n },
      close: () => void log.push(`close ${n}`),
    });
    const node = await start({ plugins: [slow(1, old.handle), watch(1)], drain: 60_000 });
    const running = collect(node, chat("m", { stream: true }));
    await old.begun;
    await reload(node, { plugins: [slow(2, whole("new")), watch(2)], drain: 60_000 });
    expect((await collect(node, chat("m"))).text).toBe("new");
    expect(log).toEqual(["2 ok"]);
    old.go();
    expect((await running).text).toBe("first,last");
    await expect.poll(() => log).toEqual(["2 ok", "1 ok", "close 1"]);
  });

  it("keeps its routers when it is still to be routed", async () => {
    const entered = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const gate: Plugin = {
      name: "guard-slow",
      options: {},
      hooks: { "call:start": () => (entered.resolve(), go.promise) },
    };
    const pick = (name: string): Plugin => ({
      name: "router-pick",
      options: { name },
      router: { select: (targets) => targets.filter((target) => target.provider === name) },
    });
    const both = [provider("a", whole("a")), provider("b", whole("b"))];
    const node = await start({ plugins: [gate, both, pick("a")] });
    const early = collect(node, chat("m"));
    await entered.promise;
    await reload(node, { plugins: [gate, both, pick("b")] });
    go.resolve();
    expect((await early).text).toBe("a");
    expect((await collect(node, chat("m"))).text).toBe("b");
  });

  it("is not waited for longer than `drain`", async () => {
    const closed = Promise.withResolvers<void>();
    const begun = Promise.withResolvers<void>();
    const stuck: Plugin = {
      ...provider("p", (...all) => (begun.resolve(), silent(...all))),
      close: () => closed.resolve(),
    };
    const node = await start({ plugins: [stuck] });
    const controller = new AbortController();
    const running = collect(node, chat("m"), { signal: controller.signal });
    await begun.promise;
    await reload(node, { plugins: [], drain: 20 });
    await closed.promise;
    controller.abort();
    await running;
  });
});

describe("the order of the new list is that of", () => {
  it("hooks and routers, whoever was there first", async () => {
    const log: string[] = [];
    const watch = (name: string): Plugin => ({
      name: `router-${name}`,
      options: {},
      hooks: { "call:start": () => void log.push(name) },
      router: { select: (targets) => (log.push(`select ${name}`), targets) },
    });
    const answer = provider("p", whole("x"));
    const node = await start({ plugins: [answer, watch("a"), watch("b")] });
    node.hook("call:start", () => void log.push("embedder"));
    expect(await reload(node, { plugins: [watch("c"), watch("b"), watch("a"), answer] })).toEqual([
      "router-c: new",
      "plugins: in another order",
    ]);
    await collect(node, chat("m"));
    expect(log).toEqual(["c", "b", "a", "embedder", "select c", "select b", "select a"]);
  });
});

describe("settings", () => {
  it("hold for new calls, and are told with what they were", async () => {
    const plugins = [provider("p", silent)];
    const node = await start({ plugins });
    const changes = await reload(node, { plugins, timeouts: { firstChunk: 20 }, limits: { calls: 7 } });
    expect(changes).toEqual(["timeouts.firstChunk: 120000 -> 20", "limits.calls: 8192 -> 7"]);
    const { outcome } = await collect(node, chat("m"));
    expect(outcome.error?.message).toContain("within 20 ms (timeouts.firstChunk)");
    expect(node.config.limits.calls).toBe(7);
  });

  it("limits.calls and timeouts.hook count at once", async () => {
    const entered = Promise.withResolvers<void>();
    const hang: Plugin = {
      name: "guard-hang",
      options: {},
      hooks: { "call:start": () => (entered.resolve(), new Promise<void>(() => undefined)) },
    };
    const plugins = [provider("p", whole("x")), hang];
    const node = await start({ plugins });
    await reload(node, { plugins, limits: { calls: 1 }, timeouts: { hook: 30 } });
    const first = collect(node, chat("m"));
    await entered.promise;
    expect((await collect(node, chat("m"))).outcome.error?.message).toContain("All 1 calls");
    expect((await first).outcome.error?.message).toContain("within 30 ms (timeouts.hook)");
  });

  it("a plugin sees the new ones in its setup, and those of before stay until all is up", async () => {
    const seen: number[] = [];
    const node = await start({ plugins: [] });
    const look: Plugin = {
      name: "x-look",
      options: {},
      setup: (face) => void seen.push(face.config.window, node.config.window),
    };
    await reload(node, { plugins: [look], window: 100_000 });
    expect(seen).toEqual([100_000, 262_144]);
    expect(node.config.window).toBe(100_000);
  });

  it("the data dir is the node's identity, and needs a restart", async () => {
    const node = await start({ plugins: [] });
    await expect(reload(node, { plugins: [], dataDir: "/tmp/elsewhere" })).rejects.toMatchObject({
      code: "CONFIG_INVALID",
      message: expect.stringContaining("Restart"),
    });
  });
});

describe("a config that cannot work", () => {
  const door = (log: string[], n: number): Plugin => ({
    name: "frontend-x",
    options: { n },
    hooks: { "call:start": () => void log.push(`hook ${n}`) },
    frontend: { listen: () => void log.push(`listen ${n}`), close: () => void log.push(`shut ${n}`) },
    close: () => void log.push(`close ${n}`),
  });
  const refusing = (n: number): Plugin => ({
    name: "x-updated",
    options: { n },
    update: () => Promise.reject(new Error("no disk")),
  });
  const bad: Record<string, Plugin> = {
    "fails in setup": {
      name: "x-bad",
      setup() {
        throw new Error("no disk");
      },
    },
    "fails to listen": {
      name: "x-bad",
      frontend: { listen: () => Promise.reject(new Error("no disk")), close: () => undefined },
    },
    "fails to take its options": refusing(2),
  };
  for (const [what, plugin] of Object.entries(bad))
    it(`since a plugin ${what} leaves all as it was, and closes what was up already`, async () => {
      const log: string[] = [];
      const options: unknown[] = [];
      const updating = (n: number): Plugin => ({
        name: "a-updating",
        options: { n },
        update: (next) => (options.push(next.options), true),
      });
      const updated = refusing(1);
      const old = provider("p", pieces("o", "ld"));
      const node = await start({ plugins: [old, updating(1), updated, door(log, 1)], timeouts: { gap: 1_000 } });
      log.length = 0;
      const changes = told(node, "config:change");
      const next = [provider("q", whole("new")), updating(2), door(log, 2), plugin];
      await expect(reload(node, { plugins: next, timeouts: { gap: 5 } })).rejects.toMatchObject({
        code: "PLUGIN_FAILED",
        message: expect.stringContaining("no disk"),
      });
      expect(node.config.timeouts.gap).toBe(1_000);
      expect([...node.targets].map(({ provider: name }) => name)).toEqual(["p"]);
      expect((await collect(node, chat("m"))).text).toBe("old");
      expect(log.filter((line) => line.endsWith("1"))).toEqual(["hook 1"]);
      expect(log.filter((line) => line.endsWith("2")).slice(-2)).toEqual(["shut 2", "close 2"]);
      expect(options.length === 0 || JSON.stringify(options) === '[{"n":2},{"n":1}]').toBe(true);
      expect(changes).toEqual([]);
      // The old options count, and the next reload works.
      expect(
        await reload(node, { plugins: [old, updating(1), updated, door(log, 1)], timeouts: { gap: 1_000 } }),
      ).toEqual([]);
      expect(
        await reload(node, { plugins: [old, updating(3), updated, door(log, 1)], timeouts: { gap: 1_000 } }),
      ).toEqual(["a-updating: n"]);
    });

  it("since a name is wrong, or a service is missed, is refused before anything is touched", async () => {
    const log: string[] = [];
    const node = await start({ plugins: [noted(log, "a-a", {})] });
    const more = noted(log, "b-b", {}, { needs: ["auth"] });
    await expect(reload(node, { plugins: [noted(log, "a-a", { n: 1 }), more] })).rejects.toThrow(
      /needs the service "auth"/,
    );
    await expect(reload(node, { plugins: [], windw: 1 } as never)).rejects.toThrow(/Did you mean "window"/);
    await expect(reload(node, { plugins: [], disable: ["a-b"] })).rejects.toThrow(/no plugin "a-b"/);
    expect(log).toEqual(["setup a-a {}"]);
  });

  it("since it takes the guard away from an open door is refused", async () => {
    const open: Plugin = {
      name: "frontend-open",
      options: {},
      frontend: { exposed: "0.0.0.0", listen: () => undefined, close: () => undefined },
    };
    const guard: Plugin = { name: "guard-x", options: {}, provides: ["auth"] };
    const node = await start({ plugins: [open, guard] });
    await expect(reload(node, { plugins: [open] })).rejects.toThrow(/0\.0\.0\.0 can be reached by others/);
    expect(await reload(node, { plugins: [open], insecure: true })).toEqual([
      "guard-x: off",
      "insecure: false -> true",
    ]);
  });

  it("what fails comes before what is updated in place", async () => {
    const updates: unknown[] = [];
    const make = (n: number): Plugin => ({
      name: "a-a",
      options: { n },
      update: ({ options }) => (updates.push(options), true),
    });
    const node = await start({ plugins: [make(1)] });
    await expect(reload(node, { plugins: [make(2), bad["fails to listen"]] })).rejects.toThrow("no disk");
    expect(updates).toEqual([]);
  });
});

describe("reloads", () => {
  it("at once come one after the other, and the last wins", async () => {
    const log: string[] = [];
    const make = (n: number): Plugin =>
      noted(
        log,
        "a-a",
        { n },
        {
          async setup() {
            log.push(`begin ${n}`);
            await new Promise((resolve) => setImmediate(resolve));
            log.push(`end ${n}`);
          },
        },
      );
    const node = await start({ plugins: [make(0)] });
    const broken = { plugins: [], windw: 1 } as never;
    const all = await Promise.allSettled([
      reload(node, { plugins: [make(1)] }),
      reload(node, broken),
      reload(node, { plugins: [make(2)] }),
    ]);
    expect(all.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
    expect(log.filter((line) => !line.startsWith("close"))).toEqual(
      [0, 1, 2].flatMap((n) => [`begin ${n}`, `end ${n}`]),
    );
    expect(await reload(node, { plugins: [make(2)] })).toEqual([]);
  });

  it("do not wait for a plugin that hangs in `close`, which is told", async () => {
    const hurried: Runtime = { ...systemRuntime, setTimeout: (ms, then) => systemRuntime.setTimeout(ms / 100, then) };
    const hang: Plugin = { name: "x-hang", options: {}, close: () => new Promise(() => undefined) };
    const node = await start({ plugins: [hang] }, hurried);
    const errors = told(node, "node:error");
    expect(await reload(node, { plugins: [] })).toEqual(["x-hang: off"]);
    expect(errors).toEqual([]);
    await expect.poll(() => errors.length).toBe(1);
    expect(errors[0]?.[0]).toMatchObject({ message: "The plugin x-hang failed to close." });
  });

  it("end with the node: one that runs is waited for, and none comes after", async () => {
    const log: string[] = [];
    const entered = Promise.withResolvers<void>();
    const go = Promise.withResolvers<void>();
    const slow = noted(log, "a-slow", {}, { setup: () => (entered.resolve(), go.promise) });
    const node = await start({ plugins: [] });
    const running = reload(node, { plugins: [slow] });
    await entered.promise;
    const closed = node.close();
    go.resolve();
    expect(await running).toEqual(["a-slow: new"]);
    await closed;
    expect(log).toEqual(["close a-slow {}"]);
    await expect(reload(node, { plugins: [] })).rejects.toThrow(/closing/);
  });

  it("a plugin that is on its way out is closed with the node, too", async () => {
    const log: string[] = [];
    const old = held();
    const slow: Plugin = { ...provider("p", old.handle), close: () => void log.push("closed") };
    const node = await start({ plugins: [slow], drain: 60_000 });
    const running = collect(node, chat("m", { stream: true }));
    await old.begun;
    await reload(node, { plugins: [], drain: 60_000 });
    const closed = node.close();
    expect(log).toEqual([]);
    old.go();
    await closed;
    expect((await running).text).toBe("first,last");
    expect(log).toEqual(["closed"]);
  });
});

describe("a transport", () => {
  const network = (): string => Math.random().toString(36);

  async function pair(
    handle: Handler,
    ...networks: string[]
  ): Promise<{ gateway: AimoNode; far: AimoNode; stays: Plugin }> {
    const stays = provider("p", handle);
    const gateway = await start({ plugins: networks.map(over), drain: 60_000 });
    const listed = new Promise<void>((resolve) => gateway.hook("catalog:change", () => resolve()));
    const far = await start({ plugins: [...networks.map(over), stays], drain: 60_000 });
    await listed;
    return { gateway, far, stays };
  }

  /** Several of them. */
  const over = (name: string): Plugin => ({ ...memory({ network: name }), name: `transport-memory:${name}` });

  it("that stays keeps its links", async () => {
    const one = network();
    const { gateway } = await pair(whole("x"), one);
    const down = told(gateway, "link:down");
    expect(await reload(gateway, { plugins: [over(one), quietRouter()], drain: 60_000 })).toEqual([
      "router-quiet: new",
    ]);
    expect((await collect(gateway, chat("m"))).text).toBe("x");
    expect(down).toEqual([]);
  });

  it("that goes gives its calls to another one", async () => {
    const [one, two] = [network(), network()];
    const slow = held();
    let runs = 0;
    const { gateway } = await pair((...all) => (runs++, slow.handle(...all)), one, two);
    const running = collect(gateway, chat("m", { stream: true }));
    await slow.begun;
    await reload(gateway, { plugins: [over(two)], drain: 60_000 });
    await expect.poll(() => [...gateway.peers].map(({ links }) => links.length)).toEqual([1]);
    slow.go();
    expect((await running).text).toBe("first,last");
    expect(runs).toBe(1);
  });

  it("that goes alone lets its calls end, and takes no new ones", async () => {
    const one = network();
    const slow = held();
    const { gateway, far } = await pair(slow.handle, one);
    const down = told(far, "link:down");
    const running = collect(gateway, chat("m", { stream: true }));
    await slow.begun;
    expect(await reload(gateway, { plugins: [], drain: 60_000 })).toEqual([`transport-memory:${one}: off`]);
    expect((await collect(gateway, chat("m"))).outcome.error?.code).toBe("NETWORK_ERROR");
    expect(down).toEqual([]);
    slow.go();
    expect((await running).text).toBe("first,last");
    await expect.poll(() => down.length).toBe(1);
  });

  it("that comes back while its calls still run takes them over", async () => {
    const one = network();
    const slow = held();
    const { gateway } = await pair(slow.handle, one);
    const running = collect(gateway, chat("m", { stream: true }));
    await slow.begun;
    await reload(gateway, { plugins: [], drain: 60_000 });
    expect(await reload(gateway, { plugins: [over(one)], drain: 60_000 })).toEqual([`transport-memory:${one}: new`]);
    slow.go();
    expect((await running).text).toBe("first,last");
    expect([...gateway.peers].map(({ links }) => links)).toEqual([["memory"]]);
  });

  it("may be the very same object when it comes back", async () => {
    const one = network();
    const slow = held();
    const same = over(one);
    const { gateway } = await pair(slow.handle, one);
    await reload(gateway, { plugins: [], drain: 60_000 });
    await reload(gateway, { plugins: [same], drain: 60_000 });
    await expect.poll(() => [...gateway.targets].length).toBe(1);
    const running = collect(gateway, chat("m", { stream: true }));
    await slow.begun;
    await reload(gateway, { plugins: [], drain: 60_000 });
    await reload(gateway, { plugins: [same], drain: 60_000 });
    slow.go();
    expect((await running).text).toBe("first,last");
  });

  it("of a provider's node goes and comes under a gateway's calls", async () => {
    const [one, two] = [network(), network()];
    const slow = held();
    const { gateway, far, stays } = await pair(slow.handle, one, two);
    const running = collect(gateway, chat("m", { stream: true }));
    await slow.begun;
    await reload(far, { plugins: [over(two), stays], drain: 60_000 });
    await expect.poll(() => [...gateway.peers].map(({ links }) => links.length)).toEqual([1]);
    await reload(far, { plugins: [over(one), over(two), stays], drain: 60_000 });
    await expect.poll(() => [...gateway.peers].map(({ links }) => links.length)).toEqual([2]);
    slow.go();
    expect((await running).text).toBe("first,last");
  });
});

const quietRouter = (): Plugin => ({ name: "router-quiet", options: {}, router: { select: (targets) => targets } });
