import { describe, expect, it } from "vitest";
import { AimoError, createNode, type AimoNode, type NodeConfig, type Plugin } from "../../core/index.ts";
import { createHooks, type Hooks } from "../../core/listeners.ts";
import { createVirtualRuntime, settle, type VirtualRuntime } from "../kit/virtual-runtime.ts";
import { call } from "../suites/index.ts";

declare module "../../core/index.ts" {
  interface NodeHooks {
    "price:announce": (peer: string, price: number) => void;
  }
}

interface Stage {
  readonly hooks: Hooks;
  readonly runtime: VirtualRuntime;
  readonly errors: { error: AimoError; plugin: string | undefined }[];
}

function stage(): Stage {
  const runtime = createVirtualRuntime();
  const errors: Stage["errors"] = [];
  const hooks = createHooks(
    runtime,
    () => 1_000,
    (error, plugin) => void errors.push({ error, plugin }),
  );
  return { hooks, runtime, errors };
}

const start = (plugins: NodeConfig["plugins"]): Promise<AimoNode> => createNode({ plugins, drain: 0 });

describe("guard", () => {
  it("is synchronous as long as every listener is", () => {
    const { hooks } = stage();
    const ran: number[] = [];
    hooks.on("node:ready", () => void ran.push(1), "a");
    hooks.on("node:ready", () => void ran.push(2), "b");
    expect(hooks.guard("node:ready", {} as AimoNode)).toBeUndefined();
    expect(ran).toEqual([1, 2]);
  });

  it("runs in order, also when some are asynchronous", async () => {
    const { hooks } = stage();
    const ran: number[] = [];
    hooks.on("node:ready", async () => (await settle(), void ran.push(1)), "a");
    hooks.on("node:ready", () => void ran.push(2), "b");
    await hooks.guard("node:ready", {} as AimoNode);
    expect(ran).toEqual([1, 2]);
  });

  it("ends with the first throw, an AimoError as it is and anything else as PLUGIN_FAILED of its plugin", async () => {
    for (const thrown of [new AimoError("FORBIDDEN", "No."), new Error("broken"), "text", undefined]) {
      for (const later of [false, true]) {
        const { hooks } = stage();
        const ran: number[] = [];
        const fail = (): void | Promise<void> => {
          if (later) return Promise.reject(thrown);
          throw thrown;
        };
        hooks.on("node:ready", fail, "guard-bad");
        hooks.on("node:ready", () => void ran.push(2), "b");
        const error = await Promise.resolve()
          .then(() => hooks.guard("node:ready", {} as AimoNode))
          .catch((reason: unknown) => reason);
        const wrapped = { code: "PLUGIN_FAILED", data: { plugin: "guard-bad" } };
        expect(error).toMatchObject(thrown instanceof AimoError ? thrown : wrapped);
        expect(ran).toEqual([]);
      }
    }
  });

  it("gives up a listener that does not settle within the limit, and leaves no timer of one that does", async () => {
    const { hooks, runtime } = stage();
    hooks.on("node:ready", () => new Promise(() => undefined), "guard-slow");
    const failed = Promise.resolve(hooks.guard("node:ready", {} as AimoNode)).catch((reason: unknown) => reason);
    await runtime.advance(1_000);
    expect(await failed).toMatchObject({
      code: "PLUGIN_FAILED",
      message: expect.stringContaining("1000 ms (timeouts.hook)"),
    });
    hooks.on("node:close", () => settle(), "guard-quick");
    await hooks.guard("node:close");
    expect(runtime.pending).toBe(0);
  });
});

describe("tell", () => {
  it("runs all, and sends failures to node:error with the plugin's name", async () => {
    const { hooks, errors } = stage();
    const ran: number[] = [];
    hooks.on(
      "peer:join",
      () => {
        throw new Error("broken");
      },
      "observer-bad",
    );
    hooks.on("peer:join", () => Promise.reject(new Error("later")), "observer-late");
    hooks.on("peer:join", () => void ran.push(3), "c");
    hooks.tell("peer:join", "peer");
    expect(ran).toEqual([3]);
    await settle();
    expect(errors.map(({ plugin }) => plugin)).toEqual(["observer-bad", "observer-late"]);
  });

  it("a node:error listener that fails does not tell itself for ever", async () => {
    const { hooks, errors } = stage();
    let ran = 0;
    hooks.on(
      "node:error",
      () => {
        ran++;
        throw new Error("broken");
      },
      "observer-bad",
    );
    hooks.tell("node:error", new AimoError("INTERNAL", "first"));
    await settle();
    expect(ran).toBe(1);
    expect(errors.map(({ error }) => error.code)).toEqual(["INTERNAL", "PLUGIN_FAILED"]);
  });
});

it("frame:chunk refuses an asynchronous listener, and catches what it rejects with", async () => {
  const { hooks } = stage();
  hooks.on("frame:chunk", () => Promise.reject(new Error("unseen")), "observer-async");
  expect(() => hooks.guard("frame:chunk", {} as never, call())).toThrow(
    /observer-async: frame:chunk must be synchronous/,
  );
  await settle();
});

describe("a generation of listeners", () => {
  it("stays as it is while listeners come and go", () => {
    const { hooks } = stage();
    const ran: string[] = [];
    const off = hooks.on("peer:join", () => void ran.push("a"), "a");
    const before = hooks.current();
    hooks.on("peer:join", () => void ran.push("b"), "b");
    before.tell("peer:join", "x");
    expect(ran).toEqual(["a"]);
    off();
    hooks.tell("peer:join", "x");
    expect(ran).toEqual(["a", "b"]);
    before.tell("peer:join", "x");
    expect(ran).toEqual(["a", "b", "a"]);
  });

  it("knows which hooks have listeners", () => {
    const { hooks } = stage();
    expect(hooks.has("call:route")).toBe(false);
    const off = hooks.on("call:route", () => undefined, "a");
    expect(hooks.has("call:route")).toBe(true);
    off();
    expect(hooks.has("call:route")).toBe(false);
  });
});

describe("names", () => {
  it("that are unknown are refused at load, with the one that was meant", async () => {
    const wrong = (name: string): Plugin => ({ name: "observer-test", hooks: { [name]: () => undefined } });
    for (const [name, meant] of [
      ["frame:chunks", "frame:chunk"],
      ["call:ended", "call:end"],
      ["frames:request", "frame:request"],
    ] as const)
      await expect(start([wrong(name)])).rejects.toMatchObject({
        code: "CONFIG_INVALID",
        message: `observer-test: there is no hook "${name}". Did you mean "${meant}"?`,
      });
    await expect(start([wrong("call:whatever")])).rejects.toThrow('there is no hook "call:whatever"');
    await expect(start([wrong("nonsense")])).rejects.toThrow('there is no hook "nonsense"');
  });

  it("that are unknown are refused later as well", async () => {
    await using node = await start([]);
    expect(() => node.hook("call:ends" as never, (() => undefined) as never)).toThrow(/Did you mean "call:end"\?/);
    expect(() => node.hook("call:end", 42 as never)).toThrow(/must be a function/);
  });

  it("that belong to a node are the node's to call, and a plugin may add its own", async () => {
    const seen: unknown[] = [];
    const plugin: Plugin = { name: "observer-price", hooks: { "price:announce": (...args) => void seen.push(args) } };
    await using node = await start([plugin]);
    await node.emit("price:announce", "peer", 3);
    expect(seen).toEqual([["peer", 3]]);
    // @ts-expect-error: not a plugin's
    void (() => node.emit("peer:join", "peer"));
  });

  it("want functions", async () => {
    const plugin = { name: "observer-test", hooks: { "call:end": "later" } } as never;
    await expect(start([plugin])).rejects.toThrow('observer-test: the hook "call:end" must be a function.');
  });
});

it("a plugin's own hook that fails rejects where it is emitted", async () => {
  const bad: Plugin = {
    name: "observer-bad",
    hooks: { "price:announce": () => Promise.reject(new Error("x")) as never },
  };
  await using node = await start([bad]);
  await expect(node.emit("price:announce", "p", 1)).rejects.toMatchObject({ code: "PLUGIN_FAILED" });
});
