// The contract.
export type { Allowance, Attempt, Call, Origin, Outcome, Scope } from "./call.ts";
export { AimoError, type ErrorCode, type ErrorData } from "./error.ts";
export {
  MAX_CHUNK,
  type ErrorFrame,
  type Headers,
  type HeartbeatFrame,
  type ModelCard,
  type Receipt,
  type ReplyFrame,
  type RequestFrame,
  type ResponseFrame,
  type StreamChunkFrame,
  type Usage,
} from "./frame.ts";
export type { HookName, NodeHooks } from "./hooks.ts";
export type {
  Awaitable,
  Frontend,
  Handler,
  HeadInit,
  Link,
  LinkCaps,
  LinkEvents,
  NewRequest,
  OpenCall,
  OpenFrom,
  Provider,
  Reply,
  Router,
  Sink,
  Target,
  TargetStats,
  Translator,
  Transport,
  Wait,
} from "./parts.ts";
export type { NodeServices, Plugin, PluginList, ServiceName } from "./plugin.ts";

// The kernel.
export {
  checkOptions,
  defineConfig,
  type ConfigFile,
  type NodeConfig,
  type Settings,
  type StandardSchema,
} from "./config.ts";
export { generate } from "./generate.ts";
export { isPeerId, openIdentity, type Identity } from "./identity.ts";
export { optional } from "./optional.ts";
export { createNode, type AimoNode, type LogFields, type LogLevel } from "./node.ts";
export type { Decision, NamedRouter, Step, Weighed } from "./route.ts";
export { systemRuntime, type Runtime } from "./runtime.ts";

export type { SignedAdvert } from "./wire/advert.ts";

// For transports over byte streams, and for whoever checks a receipt.
export { createDeframer, joinFramed } from "./wire/framing.ts";
export { verifyReceipt } from "./wire/receipt.ts";
