import { readFileSync } from "node:fs";
import { describe, expect, it, onTestFinished } from "vitest";
import { createNode, type AimoNode, type ModelCard, type Plugin } from "../../../core/index.ts";
import { custom } from "../../../plugins/providers/custom.ts";
import { memory } from "../../../plugins/transports/memory.ts";
import { card, chat, collect, request, target, testRouter } from "../../suites/index.ts";
import { call } from "../../suites/build.ts";
import { green } from "./_green.ts";

const CARDS = {
  green: { "x-co2": 10, pricing: { prompt: "0", completion: "0.00001" } },
  cheap: { "x-co2": 400, pricing: { prompt: "0", completion: "0.000001" } },
  silent: {},
} as const satisfies Record<string, Partial<ModelCard>>;

/** A gateway, and a provider node for each card. */
async function gateway(): Promise<AimoNode> {
  const network = "custom-router";
  const start = async (plugins: readonly Plugin[]): Promise<AimoNode> => {
    const node = await createNode({ plugins: [memory({ network }), ...plugins] });
    onTestFinished(() => node.close());
    return node;
  };
  const node = await start([green()]);
  for (const [name, more] of Object.entries(CARDS))
    await start([custom({ name, models: [card(more)], handle: (_, reply) => void reply.send(name) })]);
  await expect.poll(() => [...node.targets].length).toBe(3);
  return node;
}

const padded = (bytes: number) => chat("model", { extra: { padding: "x".repeat(bytes) } });
const names = (node: AimoNode, bytes: number) =>
  node.route(padded(bytes)).steps.map(({ targets }) => targets.map(({ id }) => id.split("/")[1]));

describe("a router of fifteen lines", () => {
  testRouter(() => green());

  it("is the file that the guide shows", () => {
    const [guide = "", file = ""] = ["../../../docs/write-a-router.md", "./_green.ts"].map((path) =>
      readFileSync(new URL(path, import.meta.url), "utf8"),
    );
    expect(guide).toContain(`\`\`\`ts\n// green.ts\n${file}\`\`\``);
  });

  it("sees what providers advertise, its own fields among it, and decides by the request", async () => {
    const node = await gateway();
    expect(names(node, 10)).toEqual([["cheap", "green", "silent"]]);
    expect(names(node, 5_000)).toEqual([["green", "cheap", "silent"]]);
    const [figures] = node.route(padded(10)).steps[0]?.targets.map((each) => each.figures) ?? [];
    expect(figures).toEqual({ grams: 400, busy: 1, usd: 0.000001 });
  });

  it("tells the client how it decided", async () => {
    const { frames, text } = await collect(await gateway(), padded(5_000));
    expect(text).toBe("green");
    expect(frames[0]).toMatchObject({ messageType: "Response", headers: { "x-aimo-route-by": "co2" } });
  });

  it("sees what the node has seen of a target", () => {
    const stats = { inFlight: 60, calls: 9, failures: 0, failuresInRow: 0 };
    const targets = [
      target({ peer: "busy", model: card(CARDS.green), stats }),
      target({ peer: "idle", model: card(CARDS.cheap) }),
    ];
    const order = green().router?.select(targets, request({ body: new Uint8Array(3_000) }), call()) ?? [];
    expect([...order].map(({ peer }) => peer)).toEqual(["idle", "busy"]);
  });
});

describe("a mistake in a routing plugin is refused at start, with what was meant:", () => {
  const wrong: Record<string, readonly [object, string]> = {
    "a field": [{ routr: { select: () => [] } }, 'router-green: a plugin has no field "routr". Did you mean "router"?'],
    "a hook": [
      { hooks: { "call:atempted": () => undefined } },
      'router-green: there is no hook "call:atempted". Did you mean "call:attempted"?',
    ],
    "a router without its function": [
      { router: { selct: () => [] } },
      'router-green: "router" needs a function "select".',
    ],
    "a plugin to disable": [
      { disable: ["router-gren"] },
      'disable: there is no plugin "router-gren". Did you mean "router-green"?',
    ],
  };
  for (const [what, [mistake, message]] of Object.entries(wrong))
    it(what, async () => {
      const { disable = [], ...fields } = mistake as { disable?: string[] };
      const plugin = { ...green(), ...fields };
      await expect(createNode({ plugins: [plugin], disable })).rejects.toThrow(message);
    });
});
