// Checked by `npm run types`: what must compile, and what must not.
import { createNode, defineConfig, generate, type AimoNode, type Plugin, type Router } from "aimo";
import { http } from "aimo/frontends";
import { libp2p, stream } from "aimo/transports";

declare module "aimo" {
  interface NodeHooks {
    "price:announce": (peer: string, usd: number) => void;
  }
  interface NodeServices {
    prices: Map<string, number>;
  }
}

export function prices(): Plugin {
  const known = new Map<string, number>();
  return {
    name: "observer-prices",
    provides: ["prices"],
    hooks: {
      "price:announce": (peer, usd) => void known.set(peer, usd),
      "call:end": (call, outcome) => void [call.id, outcome.status],
    },
    setup(node) {
      node.provide("prices", known);
      node.use("prices").get("a")?.toFixed();
      void node.use("http").url?.length;
    },
  };
}

export function misspeltField(): Plugin {
  // @ts-expect-error a plugin has no field `hoks`
  return { name: "observer-x", hoks: {} };
}

export function misspeltHook(): Plugin {
  // @ts-expect-error there is no hook `frame:chunks`
  return { name: "observer-x", hooks: { "frame:chunks": () => undefined } };
}

export function asyncChunkHook(): Plugin {
  // @ts-expect-error `frame:chunk` is synchronous
  return { name: "observer-x", hooks: { "frame:chunk": async () => undefined } };
}

export function unknownService(): Plugin {
  // @ts-expect-error nobody declared the service `nothing`
  return { name: "observer-x", needs: ["nothing"] };
}

// @ts-expect-error a router returns targets
export const wrongRouter: Router = { select: () => ["a"] };

export function misspeltRouter(): Plugin {
  // @ts-expect-error a plugin has no field `routr`
  return { name: "router-x", routr: { select: () => [] } };
}

export function misspeltSelect(): Plugin {
  // @ts-expect-error a router has no function `selct`
  return { name: "router-x", router: { selct: () => [] } };
}

export function misspeltAttempted(): Plugin {
  // @ts-expect-error there is no hook `call:attemptd`
  return { name: "router-x", hooks: { "call:attemptd": () => undefined } };
}

// @ts-expect-error the targets are not the router's to change
export const rude: Router = { select: (targets) => targets.splice(0) };

// @ts-expect-error nor is the request
export const rewriting: Router = { select: (targets, request) => ((request.model = "other"), targets) };

// @ts-expect-error a target has no `stats.firstchunk`
export const misspeltStat: Router = { select: (targets) => targets.filter(({ stats }) => stats.firstchunk) };

// @ts-expect-error figures are strings and numbers
export const wrongFigures: Router = { select: (targets) => targets, explain: () => ({ good: true }) };

/** Own fields of a card are there, and unknown. */
export const byOwnField: Router = {
  select: (targets) => targets.filter(({ model }) => model["x-co2"] !== undefined),
  // @ts-expect-error nobody knows what a peer wrote there
  explain: ({ model }) => ({ co2: model["x-co2"] }),
};

export const sorted: Router = { select: (targets) => targets.toSorted((a, b) => (a.load ?? 0) - (b.load ?? 0)) };

// @ts-expect-error `prot` is no option
http({ prot: 8000 });

export const config = defineConfig({
  plugins: [http(), [libp2p(), stream()], false, process.env["X"] && prices()],
  disable: ["transport-stream"],
});

// @ts-expect-error `plugin` is no field of a config
defineConfig({ plugin: [] });

export const handler = generate(async function* (request) {
  yield `data: ${request.model}\n\n`;
  return { promptTokens: 1 };
});

export async function emits(node: AimoNode): Promise<void> {
  await node.emit("price:announce", "peer", 1);
  // @ts-expect-error the node's own hooks are the node's to call
  await node.emit("node:ready", node);
  await using other = await createNode({ plugins: [] });
  void other.id;
}
