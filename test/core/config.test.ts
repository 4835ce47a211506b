import { describe, expect, it } from "vitest";
import { z } from "zod";
import { checkOptions, createNode, defineConfig, type NodeConfig, type Plugin } from "../../core/index.ts";
import { resolveConfig } from "../../core/config.ts";

const refused = async (config: unknown): Promise<string> => {
  const error = (await createNode(config as NodeConfig).then(
    (node) => node.close().then(() => undefined),
    (reason: unknown) => reason,
  )) as Error | undefined;
  expect(error).toMatchObject({ name: "AimoError", code: "CONFIG_INVALID" });
  return error?.message ?? "";
};

describe("defaults", () => {
  it("are those that the types promise", () => {
    expect(resolveConfig({ plugins: [] })).toEqual({
      plugins: [],
      disable: [],
      dataDir: undefined,
      insecure: false,
      relay: false,
      window: 262_144,
      drain: 10_000,
      timeouts: {
        connect: 10_000,
        accept: 5_000,
        firstChunk: 120_000,
        gap: 60_000,
        total: 0,
        resume: 1_500,
        hold: 30_000,
        write: 60_000,
        request: 120_000,
        hook: 5_000,
      },
      limits: {
        body: 4_194_304,
        bodies: 67_108_864,
        uploads: 268_435_456,
        kept: 67_108_864,
        calls: 8_192,
        callsPerPeer: 2_048,
        attempts: 3,
      },
    });
  });

  it("fill in beside what is given", () => {
    const { timeouts, limits } = resolveConfig({ plugins: [], timeouts: { gap: 5 }, limits: { attempts: 1 } });
    expect(timeouts).toMatchObject({ gap: 5, hook: 5_000 });
    expect(limits).toMatchObject({ attempts: 1, calls: 8_192 });
  });

  it("defineConfig gives back what it was given", () => {
    const config: NodeConfig = { plugins: [] };
    expect(defineConfig(config)).toBe(config);
  });
});

describe("a config is refused with the field and what was meant", () => {
  it("for an option that does not exist", async () => {
    expect(await refused({ plugins: [], dissable: [] })).toBe(
      'config: there is no option "dissable". Did you mean "disable"?',
    );
    expect(await refused({ plugins: [], timeouts: { frstChunk: 5 } })).toBe(
      'config: there is no option "timeouts.frstChunk". Did you mean "firstChunk"?',
    );
    expect(await refused({ plugins: [], limits: { call: 5 } })).toContain('Did you mean "calls"?');
    expect(await refused({ plugins: [], completelyUnknown: 1 })).toBe(
      'config: there is no option "completelyUnknown".',
    );
  });

  it("for a value of the wrong type or size", async () => {
    expect(await refused({ plugins: [], drain: "10s" })).toContain("config: drain: invalid input: expected number");
    expect(await refused({ plugins: [], timeouts: { gap: 0 } })).toContain("timeouts.gap: too small");
    expect(await refused({ plugins: [], limits: { attempts: 1.5 } })).toContain("limits.attempts:");
    expect(await refused({ plugins: [], window: 100 })).toContain("window: too small");
    expect(await refused({ plugins: "http" })).toBe("config: plugins: must be an array of plugins");
    expect(await refused({})).toContain("plugins: must be an array");
    expect(await refused(undefined)).toContain("config: options:");
  });

  it("for a name in `disable` that nothing has", async () => {
    expect(await refused({ plugins: [], disable: ["observer-loger"] })).toBe(
      'disable: there is no plugin "observer-loger". Did you mean "observer-logger"?',
    );
  });

  it("for a hook or a field of a plugin that does not exist", async () => {
    expect(await refused({ plugins: [{ name: "a-a", hooks: { "call:strat": () => undefined } }] })).toBe(
      'a-a: there is no hook "call:strat". Did you mean "call:start"?',
    );
    expect(await refused({ plugins: [{ name: "a-a", setUp: () => undefined }] })).toBe(
      'a-a: a plugin has no field "setUp". Did you mean "setup"?',
    );
  });

  it("for two mistakes in one sentence each", async () => {
    const message = await refused({ plugins: [], drain: -1, windw: 1 });
    expect(message).toContain("drain: too small");
    expect(message).toContain('Did you mean "window"?');
  });

  it("for two providers of one name on a node", async () => {
    const provider = (name: string): Plugin => ({
      name,
      provider: { name: "same", models: [{ id: "m", types: ["x"] }], handle: () => undefined },
    });
    expect(await refused({ plugins: [provider("provider-a"), provider("provider-b")] })).toContain(
      'provider-b: there is a provider "same" already: give one a name',
    );
  });
});

describe("checkOptions", () => {
  const schema = z.strictObject({
    port: z.number().default(8_000),
    deep: z.strictObject({ name: z.string() }).optional(),
  });

  it("gives the options with their defaults", () => {
    expect(checkOptions("a-a", schema, {})).toEqual({ port: 8_000 });
  });

  it("names the plugin, the path and what was meant", () => {
    const check = (options: unknown) => () => checkOptions("frontend-x", schema, options);
    expect(check({ prot: 1 })).toThrow('frontend-x: there is no option "prot". Did you mean "port"?');
    expect(check({ deep: { nmae: "x" } })).toThrow('Did you mean "name"?');
    expect(check({ deep: { name: 1 } })).toThrow("frontend-x: deep.name: invalid input");
    expect(check(42)).toThrow("frontend-x: options: invalid input");
    expect(check({ prot: 1 })).toThrow(
      expect.objectContaining({ code: "CONFIG_INVALID", data: { plugin: "frontend-x" } }),
    );
  });

  it("takes any Standard Schema", () => {
    const other = (issues?: { message: string; path?: (string | { key: string })[] }[]) => ({
      "~standard": { version: 1 as const, vendor: "other", validate: () => (issues ? { issues } : { value: 42 }) },
    });
    expect(checkOptions("a-a", other(), {})).toBe(42);
    const broken = other([{ message: "Bad", path: ["a", { key: "b" }] }, { message: "Worse" }]);
    expect(() => checkOptions("a-a", broken, {})).toThrow("a-a: a.b: bad; options: worse");
  });

  it("refuses a schema that is asynchronous", () => {
    const late = { "~standard": { version: 1 as const, vendor: "x", validate: () => Promise.resolve({ value: 1 }) } };
    expect(() => checkOptions("a-a", late, {})).toThrow("a-a: its schema must be synchronous.");
  });
});
