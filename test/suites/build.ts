import { randomBytes } from "node:crypto";
import type {
  AimoNode,
  Call,
  ModelCard,
  NewRequest,
  Origin,
  Outcome,
  ReplyFrame,
  RequestFrame,
  Target,
  Wait,
} from "../../core/index.ts";

/** A client of no frontend in particular. */
export function origin(overrides: Partial<Origin> = {}): Origin {
  return { kind: "client", via: "test", headers: {}, ...overrides };
}

/** A remote target whose id follows from its parts. */
export function target(overrides: Partial<Target> = {}): Target {
  const { peer = "peer", provider = "provider", model = card() } = overrides;
  return {
    id: `${peer}/${provider}/${model.id}`,
    peer,
    provider,
    local: false,
    model,
    stats: { inFlight: 0, calls: 0, failures: 0, failuresInRow: 0 },
    handle: (_, reply) => void reply.send("{}"),
    ...overrides,
  };
}

export function card(overrides: Partial<ModelCard> = {}): ModelCard {
  return { id: "model", types: ["openai.chat"], ...overrides };
}

/** As a router or a handler sees it. */
export function request(overrides: Partial<RequestFrame> = {}): RequestFrame {
  return {
    messageType: "Request",
    requestId: randomBytes(16).toString("hex"),
    senderId: "sender",
    timestamp: Date.now(),
    type: "openai.chat",
    model: "model",
    stream: false,
    headers: {},
    contentType: "application/json",
    body: Buffer.from('{"model":"model","messages":[]}'),
    hops: 0,
    ...overrides,
  };
}

export function call(overrides: Partial<Call> = {}): Call {
  return {
    id: randomBytes(16).toString("hex"),
    origin: origin(),
    startedAt: Date.now(),
    signal: new AbortController().signal,
    attempts: [],
    chunks: 0,
    bytes: 0,
    headers: {},
    ...overrides,
  };
}

/** What `node.open` takes for an OpenAI chat. */
export function chat(model: string, overrides: Partial<NewRequest> & { readonly extra?: object } = {}): NewRequest {
  const { extra, ...rest } = overrides;
  const { stream = false } = rest;
  const body = { model, stream, messages: [{ role: "user", content: "Say something." }], ...extra };
  const bytes = Buffer.from(JSON.stringify(body));
  return { type: "openai.chat", contentType: "application/json", model, stream, body: bytes, ...rest };
}

export interface Collected {
  readonly frames: ReplyFrame[];
  readonly outcome: Outcome;
  /** All body bytes. */
  readonly text: string;
}

/** Opens a call and keeps its frames. `write` sees each one and may ask to wait. */
export async function collect(
  node: Pick<AimoNode, "open">,
  newRequest: NewRequest,
  from: { origin?: Origin; signal?: AbortSignal; write?: (frame: ReplyFrame) => Wait | void } = {},
): Promise<Collected> {
  const frames: ReplyFrame[] = [];
  const { origin: who = origin(), signal = new AbortController().signal, write } = from;
  const sink = {
    write(frame: ReplyFrame): Wait {
      frames.push(frame);
      return write?.(frame) ?? undefined;
    },
  };
  const outcome = await node.open(newRequest, sink, { origin: who, signal });
  return { frames, outcome, text: textOf(frames) };
}

export function textOf(frames: readonly ReplyFrame[]): string {
  return Buffer.concat(
    frames.map((frame) => (frame.messageType === "Error" ? Buffer.alloc(0) : frame.body)),
  ).toString();
}

/** The last frame of a whole answer, of a stream, or of a failure. */
export function isEnd(frame: ReplyFrame): boolean {
  if (frame.messageType === "Error") return true;
  return frame.messageType === "Response" ? frame.streamDone : frame.isFinal;
}
