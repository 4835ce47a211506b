import { describe, expect, it } from "vitest";
import type { AimoError, ModelCard, Provider, RequestFrame, Target } from "../../core/index.ts";
import { createCatalog, type Catalog } from "../../core/catalog.ts";
import { createHooks } from "../../core/listeners.ts";
import { createVirtualRuntime, type VirtualRuntime } from "../kit/virtual-runtime.ts";
import { card, origin, request } from "../suites/index.ts";

interface Stage {
  readonly catalog: Catalog;
  readonly runtime: VirtualRuntime;
  /** Ids that came and went, in order. */
  readonly changes: string[];
  find(overrides?: Partial<RequestFrame>, kind?: "client" | "peer"): string[];
  missing(overrides?: Partial<RequestFrame>): AimoError;
}

function stage(): Stage {
  const runtime = createVirtualRuntime();
  const hooks = createHooks(
    runtime,
    () => 1_000,
    () => undefined,
  );
  const changes: string[] = [];
  const note = (sign: string, list: readonly Target[]): void => list.forEach(({ id }) => changes.push(sign + id));
  hooks.on("catalog:change", (added: Target[], removed: Target[]) => (note("+", added), note("-", removed)), "test");
  const catalog = createCatalog("self", runtime, hooks);
  const find: Stage["find"] = (overrides, kind = "client") =>
    catalog.find(request(overrides), origin({ kind })).map(({ id }) => id);
  return {
    catalog,
    runtime,
    changes,
    find,
    missing(overrides) {
      try {
        find(overrides);
      } catch (error) {
        return error as AimoError;
      }
      throw new Error("something was found");
    },
  };
}

const local = (name: string, ...models: ModelCard[]): Provider => ({ name, models, handle: () => undefined });
const noop = () => () => undefined;
const offer = ({ catalog }: Stage, peer: string, ...models: ModelCard[]): void =>
  catalog.offer(peer, [{ provider: "p", models }], undefined, noop);

describe("find", () => {
  it("gives the targets of a model, local ones and those of peers", () => {
    const s = stage();
    s.catalog.serve([local("a", card(), card({ id: "other" }))]);
    offer(s, "peer1", card());
    expect(new Set(s.find())).toEqual(new Set(["self/a/model", "peer1/p/model"]));
    expect(s.find({ model: "other" })).toEqual(["self/a/other"]);
  });

  it("gives the targets of a provider that was added, until it is taken off, and whatever is served meanwhile", () => {
    const s = stage();
    s.catalog.serve([local("a", card())]);
    const off = s.catalog.add(local("guest", card()));
    expect(s.find()).toEqual(["self/a/model", "self/guest/model"]);
    s.catalog.serve([local("b", card())]);
    expect(s.find({ providerId: "guest" })).toEqual(["self/guest/model"]);
    off();
    off();
    expect(s.find()).toEqual(["self/b/model"]);
    expect(s.changes.slice(-1)).toEqual(["-self/guest/model"]);
  });

  it("refuses to add a provider whose name is taken", () => {
    const s = stage();
    s.catalog.serve([local("a", card())]);
    s.catalog.add(local("guest", card()));
    for (const name of ["a", "guest"])
      expect(() => s.catalog.add(local(name, card()))).toThrow(expect.objectContaining({ code: "CONFIG_INVALID" }));
  });

  it("gives a peer only what is local: a request takes one hop", () => {
    const s = stage();
    offer(s, "peer1", card());
    expect(() => s.find({}, "peer")).toThrow("does not exist");
    s.catalog.serve([local("a", card())]);
    expect(s.find({}, "peer")).toEqual(["self/a/model"]);
  });

  it("adds the targets of fallbacks behind, each target once", () => {
    const s = stage();
    s.catalog.serve([local("a", card(), card({ id: "b" }), card({ id: "c" }))]);
    expect(s.find({ fallbacks: ["c", "unknown", "b"] })).toEqual(["self/a/model", "self/a/c", "self/a/b"]);
    expect(s.find({ fallbacks: ["model", "c", "c"] })).toEqual(["self/a/model", "self/a/c"]);
    expect(s.find({ model: "unknown", fallbacks: ["b"] })).toEqual(["self/a/b"]);
  });

  it("keeps to a pinned peer, target or local provider; a peer's own name for its provider proves nothing", () => {
    const s = stage();
    s.catalog.serve([local("a", card()), local("p", card({ id: "else" }))]);
    offer(s, "peer1", card());
    offer(s, "peer2", card());
    expect(s.find({ providerId: "peer2" })).toEqual(["peer2/p/model"]);
    expect(s.find({ providerId: "peer1/p/model" })).toEqual(["peer1/p/model"]);
    expect(s.find({ providerId: "a" })).toEqual(["self/a/model"]);
    expect(s.missing({ providerId: "p" }).code).toBe("MODEL_NOT_FOUND");
  });

  it("asks for no model: any target of that type", () => {
    const s = stage();
    s.catalog.serve([local("a", card({ types: ["x"] }), card({ id: "b" }))]);
    const { model: _, ...anything } = request({ type: "x" });
    expect(s.catalog.find(anything, origin()).map(({ id }) => id)).toEqual(["self/a/model"]);
  });

  it("gives only targets that answer this type, or that a translator can reach, natives first", () => {
    const s = stage();
    const providers = [local("a", card({ types: ["anthropic.messages"] })), local("b", card())];
    s.catalog.serve(providers);
    expect(s.find()).toEqual(["self/b/model"]);
    s.catalog.serve(providers, [{ from: "openai.chat", to: "anthropic.messages", wrap: (handle) => handle }]);
    expect(s.find()).toEqual(["self/b/model", "self/a/model"]);
    expect(s.missing({ type: "openai.embeddings" })).toMatchObject({
      code: "MODEL_NOT_FOUND",
      message: expect.stringContaining("for requests of type openai.embeddings"),
    });
  });
});

describe("nothing found", () => {
  it("is 404 for a model that nobody has, at once", () => {
    const s = stage();
    s.catalog.serve([local("a", card())]);
    expect(s.missing({ model: "unknown" })).toMatchObject({
      code: "MODEL_NOT_FOUND",
      status: 404,
      retryable: false,
      message: 'The model "unknown" does not exist. GET /v1/models lists what can be called.',
      data: { param: "model" },
    });
    expect(s.missing({ model: "x".repeat(5_000) }).message.length).toBeLessThan(300);
  });

  it("is 404 for a provider that is not there", () => {
    const s = stage();
    s.catalog.serve([local("a", card())]);
    expect(s.missing({ providerId: "nobody" })).toMatchObject({ code: "PROVIDER_NOT_FOUND", status: 404 });
  });

  it("is 503 with a time to try again when no provider is there at all", () => {
    expect(stage().missing()).toMatchObject({ code: "NO_PROVIDER", status: 503, data: { retryAfter: 2_000 } });
  });

  it("is 503 for a minute after a model or a peer went away, and 404 then", async () => {
    const s = stage();
    s.catalog.serve([local("a", card({ id: "stays" }))]);
    offer(s, "peer1", card());
    s.catalog.withdraw("peer1");
    for (const overrides of [{}, { model: "stays", providerId: "peer1" }])
      expect(s.missing(overrides)).toMatchObject({ code: "NO_PROVIDER", status: 503 });
    await s.runtime.advance(60_000);
    expect(s.missing().code).toBe("MODEL_NOT_FOUND");
    expect(s.missing({ model: "stays", providerId: "peer1" }).code).toBe("PROVIDER_NOT_FOUND");
  });
});

describe("catalog:change", () => {
  it("tells what came and what went, and nothing when nothing changed", () => {
    const s = stage();
    offer(s, "peer1", card(), card({ id: "b" }));
    expect(s.changes.splice(0)).toEqual(["+peer1/p/model", "+peer1/p/b"]);
    offer(s, "peer1", card(), card({ id: "c" }));
    expect(s.changes.splice(0)).toEqual(["+peer1/p/c", "-peer1/p/b"]);
    offer(s, "peer1", card(), card({ id: "c" }));
    s.catalog.withdraw("nobody");
    expect(s.changes).toEqual([]);
    s.catalog.withdraw("peer1");
    expect(s.changes).toEqual(["-peer1/p/model", "-peer1/p/c"]);
    expect([...s.catalog.targets]).toEqual([]);
  });

  it("sees a local provider's new array of models", () => {
    const s = stage();
    let models: readonly ModelCard[] = [card()];
    const provider: Provider = {
      name: "a",
      get models() {
        return models;
      },
      handle: () => undefined,
    };
    s.catalog.serve([provider]);
    const before = s.catalog.local();
    expect(s.catalog.local()).toBe(before);
    models = [card({ id: "new" })];
    expect(s.find({ model: "new" })).toEqual(["self/a/new"]);
    expect(s.catalog.local()).not.toBe(before);
    expect(s.catalog.local()).toEqual([{ provider: "a", models }]);
    s.catalog.serve([]);
    expect(s.catalog.local()).toEqual([]);
    expect(s.changes).toEqual(["+self/a/model", "+self/a/new", "-self/a/model", "-self/a/new"]);
  });
});

it("a target that comes back still has its stats", () => {
  const s = stage();
  offer(s, "peer1", card());
  const [{ stats: before } = {} as Target] = s.catalog.targets;
  s.catalog.withdraw("peer1");
  offer(s, "peer1", card({ contextLength: 5 }));
  const [after] = s.catalog.targets;
  expect(after?.stats).toBe(before);
  expect(after?.model.contextLength).toBe(5);
});
