import type { Call, Origin } from "./call.ts";

/**
 * The call as a handler sees it, with the attempt's signal. Not `Object.create(call)`: V8 gives each object that becomes
 * a prototype a shape of its own, which slows every access and keeps the whole call alive until the next full collection.
 */
export class AttemptCall implements Call {
  readonly signal: AbortSignal;
  readonly #call: Call;

  constructor(call: Call, signal: AbortSignal) {
    this.#call = call;
    this.signal = signal;
  }
  get id(): string {
    return this.#call.id;
  }
  get origin(): Origin {
    return this.#call.origin;
  }
  get startedAt(): number {
    return this.#call.startedAt;
  }
  get deadline(): number {
    return this.#call.deadline as number;
  }
  get attempts(): Call["attempts"] {
    return this.#call.attempts;
  }
  get chunks(): number {
    return this.#call.chunks;
  }
  get bytes(): number {
    return this.#call.bytes;
  }
  get headers(): Call["headers"] {
    return this.#call.headers;
  }
}
