import { describe, expect, it } from "vitest";
import { createNode, type AimoNode, type NodeConfig, type Plugin, type PluginList } from "../../core/index.ts";
import { BUILT_IN, loadPlugins } from "../../core/plugin.ts";

const names = (list: PluginList, disable?: string[]): string[] => loadPlugins(list, disable).map(({ name }) => name);
const named = (name: string, more: Partial<Plugin> = {}): Plugin => ({ name, ...more });
const refused = (list: unknown, disable?: string[]): string => {
  try {
    loadPlugins(list as PluginList, disable);
  } catch (error) {
    expect(error).toMatchObject({ name: "AimoError", code: "CONFIG_INVALID" });
    return (error as Error).message;
  }
  throw new Error("it was taken");
};
const start = (plugins: NodeConfig["plugins"]): Promise<AimoNode> => createNode({ plugins, drain: 0 });

describe("a list of plugins", () => {
  it("nests, and skips what is falsy", () => {
    expect(names([named("a-a"), [named("b-b"), [null, named("c-c")]], false, undefined, "", []])).toEqual([
      "a-a",
      "b-b",
      "c-c",
    ]);
  });

  it("keeps its order, except that `pre` plugins come first", () => {
    const pre = { enforce: "pre" } as const;
    expect(names([named("a-a"), named("b-b", pre), named("c-c"), named("d-d", pre)])).toEqual([
      "b-b",
      "d-d",
      "a-a",
      "c-c",
    ]);
  });

  it("holds no name twice, but instances of one plugin", () => {
    expect(names([named("a-a"), named("a-a:one"), named("a-a:two")])).toHaveLength(3);
    expect(refused([named("a-a"), [named("a-a")]])).toContain(
      'There are two plugins "a-a": leave one out, or give one a name',
    );
    expect(refused([named("guard-api-keys"), named("guard-api-keys")])).toContain("AIMO_API_KEY");
  });

  it("must be an array of objects", () => {
    expect(refused("http")).toContain("`plugins` must be an array");
    expect(refused([() => named("a-a")])).toContain("Was the factory called");
    expect(refused(["http"])).toContain("A plugin must be an object, not a string");
  });
});

describe("a plugin", () => {
  it("has a name of a kind and a name, and perhaps an instance", () => {
    for (const good of ["router-first", "provider-openai:my.box_1", "a-b-c", "x1-2"])
      expect(names([named(good)])).toEqual([good]);
    for (const bad of ["router", "Router-First", "router_first", "router-first:", "router-", "-first", "", 42])
      expect(refused([named(bad as string)])).toContain("A plugin's name must look like");
  });

  it("has no field that is unknown, and is told which one was meant", () => {
    expect(refused([{ name: "a-a", routre: {} }])).toBe('a-a: a plugin has no field "routre". Did you mean "router"?');
    expect(refused([{ name: "a-a", hook: {} }])).toContain('Did you mean "hooks"?');
    expect(refused([{ name: "a-a", somethingElse: 1 }])).toContain('no field "somethingElse".');
  });

  it("has fields of the right type, and parts that can do what they must", () => {
    expect(refused([{ name: "a-a", setup: {} }])).toContain('a-a: "setup" must be of type function');
    expect(refused([{ name: "a-a", needs: "http" }])).toContain('"needs" must be of type array');
    expect(refused([{ name: "a-a", hooks: null }])).toContain('"hooks" must be of type object');
    expect(refused([{ name: "a-a", router: {} }])).toContain('a-a: "router" needs a function "select"');
    expect(refused([{ name: "a-a", frontend: { listen() {} } }])).toContain('"frontend" needs a function "close"');
    expect(refused([{ name: "a-a", provider: { name: "x", models: [] } }])).toContain('needs a function "handle"');
  });

  it("may leave fields undefined", () => {
    expect(names([{ name: "a-a", router: undefined, hooks: { "call:end": undefined } } as unknown as Plugin])).toEqual([
      "a-a",
    ]);
  });
});

describe("disable", () => {
  const list = [named("provider-openai:one"), named("provider-openai:two"), named("router-first")];

  it("takes a name with all its instances, or one instance", () => {
    expect(names(list, ["provider-openai"])).toEqual(["router-first"]);
    expect(names(list, ["provider-openai:one"])).toEqual(["provider-openai:two", "router-first"]);
  });

  it("takes the plugins of this project even when they are not loaded", () => {
    expect(
      names(
        list,
        [...BUILT_IN].filter((name) => name !== "router-first" && name !== "provider-openai"),
      ),
    ).toHaveLength(3);
  });

  it("refuses a name that nothing has, and tells which one was meant", () => {
    expect(refused(list, ["router-frist"])).toBe(
      'disable: there is no plugin "router-frist". Did you mean "router-first"?',
    );
    expect(refused(list, ["provider-openai:three"])).toContain('there is no plugin "provider-openai:three"');
  });
});

describe("services", () => {
  it("that are needed must be provided by a plugin that is on", () => {
    const needs = named("frontend-x", { needs: ["auth"] });
    const provides = named("guard-x", { provides: ["auth"] });
    expect(names([needs, provides])).toHaveLength(2);
    expect(refused([needs])).toBe('frontend-x needs the service "auth", and no plugin provides it.');
    expect(refused([needs, provides], ["guard-x"])).toBe(
      'frontend-x needs the service "auth", and guard-x provides it, but is disabled: enable it, or disable frontend-x too.',
    );
  });

  it("are found by name, and one that is not there says so", async () => {
    await using node = await start([named("guard-x", { setup: (face) => face.provide("auth", true) })]);
    expect(node.use("auth")).toBe(true);
    expect(node.find("log")).toBeUndefined();
    expect(() => node.use("log")).toThrow('The service "log" is not there: declare it in `needs`.');
  });
});

describe("the life of plugins", () => {
  const logged = (log: string[], name: string, more: Partial<Plugin> = {}): Plugin => ({
    name,
    setup: () => void log.push(`setup ${name}`),
    close: () => void log.push(`close ${name}`),
    ...more,
  });

  it("is set up in order, opened, and closed in reverse", async () => {
    const log: string[] = [];
    const part = (what: string) => ({
      listen: () => void log.push(`listen ${what}`),
      close: () => void log.push(`stop ${what}`),
    });
    const node = await start([
      logged(log, "a-frontend", { frontend: part("frontend") }),
      logged(log, "b-transport", { transport: part("transport") }),
    ]);
    log.push("ready");
    await node.close();
    expect(log).toEqual([
      "setup a-frontend",
      "setup b-transport",
      "listen transport",
      "listen frontend",
      "ready",
      "stop frontend",
      "stop transport",
      "close b-transport",
      "close a-frontend",
    ]);
  });

  it("a plugin that fails at start is named, and those before it are closed", async () => {
    const log: string[] = [];
    const bad = named("x-bad", {
      setup() {
        throw new Error("port in use");
      },
    });
    await expect(start([logged(log, "a-good"), bad, logged(log, "c-late")])).rejects.toMatchObject({
      code: "PLUGIN_FAILED",
      message: "The plugin x-bad failed in setup: port in use",
      data: { plugin: "x-bad" },
    });
    expect(log).toEqual(["setup a-good", "close a-good"]);
  });

  it("a plugin that fails to close is told, and all others are closed", async () => {
    const log: string[] = [];
    const errors: string[] = [];
    const bad = named("x-bad", { close: () => Promise.reject(new Error("stuck")) });
    const watch = named("observer-x", { hooks: { "node:error": ({ message }) => void errors.push(message) } });
    const quiet = named("observer-quiet", { setup: (face) => face.provide("log", () => undefined) });
    const node = await start([quiet, watch, logged(log, "a-good"), bad, logged(log, "c-good")]);
    await node.close();
    expect(log.slice(2)).toEqual(["close c-good", "close a-good"]);
    expect(errors).toEqual(["The plugin x-bad failed to close."]);
  });

  it("what a plugin logs and hooks in setup carries its name", async () => {
    const lines: unknown[] = [];
    const log = named("observer-log", { setup: (face) => face.provide("log", (...line) => void lines.push(line)) });
    const chatty = named("x-chatty", {
      setup(face) {
        face.log("info", "hello", { n: 1 });
        face.hook("node:ready", () => {
          throw new Error("broken");
        });
      },
    });
    await using _node = await start([log, chatty]);
    expect(lines).toEqual([
      ["info", "hello", { plugin: "x-chatty", n: 1 }],
      [
        "error",
        "The plugin x-chatty failed in node:ready.",
        { code: "PLUGIN_FAILED", plugin: "x-chatty", detail: expect.stringMatching(/^Error at .*plugin\.test\.ts/) },
      ],
    ]);
  });
});
