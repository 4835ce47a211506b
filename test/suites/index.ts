export { call, card, chat, collect, isEnd, origin, request, target, textOf, type Collected } from "./build.ts";
export { defineSuite, type Case, type Skip } from "./case.ts";
export {
  testProvider,
  testUpstream,
  type AdapterUnderTest,
  type ProviderUnderTest,
  type Upstream,
} from "./provider.ts";
export { testRouter } from "./router.ts";
export { testStore, type StoreUnderTest } from "./store.ts";
export { testFrontend, type FrontendUnderTest } from "./frontend.ts";
export { testTransport, type TransportPair } from "./transport.ts";
export { faulty, type Fault, type FaultControl, type Faults, type FaultyOptions, type FaultyPlugin } from "./faulty.ts";
export { tcpProxy, type TcpLine, type TcpProxy, type TcpProxyOptions } from "./tcp-proxy.ts";
export {
  hostilePeer,
  type HostileOptions,
  type HostilePeer,
  type Lie,
  type Saying,
  type Word,
} from "./hostile-peer.ts";
export { hostileNode, type HostileNode } from "./hostile-node.ts";
export { attacks, type Attack, type AttackOptions } from "./attacks.ts";
export { type Air, type AirOptions } from "./simulated-air.ts";
export { type Network, type TransportOptions, type Wire, type WireOptions } from "./network.ts";
export {
  numbered,
  simulatedProvider,
  type NumberedOptions,
  type SimulatedProviderOptions,
} from "./simulated-provider.ts";
export { type SimulatedReply } from "./simulated-reply.ts";
export {
  createSimulation,
  type AskOptions,
  type SimulatedNode,
  type Simulation,
  type SimulationOptions,
} from "./simulation.ts";
export { createVirtualRuntime, type VirtualRuntime } from "./virtual-runtime.ts";
