import { expect, it } from "vitest";
import { adviseOn } from "../../../core/cli/advice.ts";
import { loadPlugins, type PluginList } from "../../../core/plugin.ts";
import { aimoApi, http, openaiApi } from "../../../plugins/frontends/index.ts";
import { gateway, provider } from "../../../plugins/presets/index.ts";
import { custom, demo } from "../../../plugins/providers/index.ts";
import { roundRobin } from "../../../plugins/routers/index.ts";
import { libp2p, memory, pubsub, stream } from "../../../plugins/transports/index.ts";

const JOIN = ["/ip4/127.0.0.1/tcp/1"];
const advise = (plugins: PluginList, relay = false, disable: string[] = []): string[] =>
  adviseOn(loadPlugins(plugins, disable), { relay });
const host = (): PluginList => [libp2p({ join: JOIN }), stream()];

it.each<[string, PluginList]>([
  ["a gateway", gateway()],
  ["a provider", provider({ join: JOIN })],
  ["a gateway with trust()", gateway({ trust: { provide: { allow: [] } } })],
  ["a provider with trust()", provider({ join: JOIN, trust: { call: { allow: [] } } })],
  ["one process for all", [http(), openaiApi(), demo()]],
  ["one process with two nodes in it", [http(), openaiApi(), memory(), demo()]],
  ["a gateway on gossip alone", [http(), aimoApi(), libp2p({ listen: JOIN }), pubsub()]],
  [
    "a provider with two providers and a router",
    [host(), demo(), custom({ name: "two", models: ["two"], generate: async function* () {} }), roundRobin()],
  ],
])("%s gets no advice", (_, plugins) => {
  expect(advise(plugins)).toEqual([]);
});

it("a relay needs no frontend and no provider", () => {
  expect(advise([host()], true)).toEqual([]);
});

it.each<[string, PluginList, RegExp]>([
  [
    "a frontend without any way to a provider",
    [http(), openaiApi()],
    /^Clients can ask this node, but nobody can answer: it has neither a provider nor a transport to others\. Add `demo\(\)`/,
  ],
  [
    "a frontend with transport-memory alone",
    [http(), openaiApi(), memory()],
    /no provider, and transport-memory reaches only nodes of the same process/,
  ],
  ["a provider that nobody can ask", [demo()], /^Nobody can ask provider-demo: .*Add `libp2p\(\{ join/],
  [
    "a server with nothing mounted",
    [http(), demo()],
    /^frontend-http listens, but nothing is mounted on it.*`openaiApi\(\)`/,
  ],
  [
    "a host without a transport",
    [http(), openaiApi(), demo(), libp2p({ join: JOIN })],
    /^host-libp2p is of no use without a transport over it: add `stream\(\)`/,
  ],
  [
    "a provider that says who may provide",
    provider({ join: JOIN, trust: { provide: { allow: [] } } }),
    /^`provide` of guard-trust says who may offer models here.*into `invites`/,
  ],
  [
    "a host that neither listens nor joins",
    [http(), openaiApi(), libp2p(), stream()],
    /^host-libp2p neither listens nor joins/,
  ],
  [
    "a router on a node with one provider and no frontend",
    [host(), demo(), roundRobin()],
    /^router-round-robin has nothing to choose from/,
  ],
  ["a node of routers", [roundRobin()], /^This node has nothing to do/],
  ["a node of nothing", [], /^This node has nothing to do/],
  ["a node with a transport, and nothing to carry", [host()], /^This node has nothing to do.*`relay: true`/],
])("%s is told what to do, in one sentence", (_, plugins, sentence) => {
  const advice = advise(plugins);
  expect(advice).toHaveLength(1);
  expect(advice[0]).toMatch(sentence);
});

it("a relay without a transport is told so", () => {
  expect(advise([http(), openaiApi(), demo()], true)).toEqual([
    expect.stringMatching(/^`relay: true` passes on calls/),
  ]);
});

it("what is disabled does not count", () => {
  const off = ["transport-stream", "transport-pubsub"];
  expect(advise(gateway(), false, off).join("\n")).toMatch(/nobody can answer[^]*without a transport over it/);
});
