import { cancelled, tryTargets, type Run } from "./attempts.ts";
import type { Call, Origin, Outcome } from "./call.ts";
import type { Catalog } from "./catalog.ts";
import type { Settings } from "./config.ts";
import { AimoError, toFrame } from "./error.ts";
import type { Verdict } from "./gate.ts";
import type { Identity } from "./identity.ts";
import type { Hooks } from "./listeners.ts";
import { counting, createCall, createRequest, tellServer, type LiveCall } from "./live-call.ts";
import type { NewRequest, OpenCall, Target } from "./parts.ts";
import { decide, order, type Decision, type NamedRouter } from "./route.ts";
import type { Runtime } from "./runtime.ts";
import { sha256 } from "./wire/receipt.ts";

/** What the parts of the kernel share. */
export interface Kernel {
  readonly identity: Identity;
  readonly runtime: Runtime;
  readonly settings: Settings;
  readonly hooks: Hooks;
  readonly catalog: Catalog;
  routers(): readonly NamedRouter[];
}

export interface Pipeline {
  readonly open: OpenCall;
  /** What the routers would decide now, without asking anyone. */
  route(request: NewRequest, origin: Origin): Decision;
  readonly calls: Iterable<Call>;
  /** Open calls. */
  readonly size: number;
  /** Resolves when the calls that run now have ended, at most `ms` later. */
  settled(ms: number): Promise<void>;
  /** No new calls; resolves when the running ones have ended, which are aborted after `ms`. */
  drain(ms: number): Promise<void>;
}

const OVER = "The call is over."; // a bare abort() makes a DOMException with its stack for each call

/** guards -> candidates -> routers -> attempts -> sink */
export function createPipeline(kernel: Kernel): Pipeline {
  const { identity, runtime, settings, hooks, catalog } = kernel;
  const calls = new Map<LiveCall, AbortController>();
  const checks = new Set<(ended: LiveCall) => void>();
  let drained: (() => void) | undefined;

  const open: OpenCall = async (newRequest, sink, from) => {
    const { origin, signal, without = [], routers = (chain) => chain, timeouts: asked } = from;
    const listeners = hooks.current();
    const { timeouts } = settings;
    const controller = new AbortController();
    const request = createRequest(newRequest, identity.peerId, runtime);
    const call = createCall(request, origin, controller.signal, timeouts.total);
    const run: Run = {
      request,
      call,
      sink: counting(sink, call),
      listeners,
      routers: routers(kernel.routers()),
      without,
      timeouts: shorter(timeouts, asked),
    };
    const leave = (): void => controller.abort(signal.reason);
    const stopDeadline =
      call.deadline && runtime.setTimeout(timeouts.total, () => controller.abort(overdue(timeouts.total)));
    signal.addEventListener("abort", leave, { once: true });
    if (signal.aborted) leave();
    const refusal = refuse();
    calls.set(call, controller);

    let verdict: Verdict;
    try {
      if (refusal) throw refusal;
      verdict = await serve(run);
    } catch (error) {
      verdict = { error: AimoError.from(error) };
    }
    const outcome = toOutcome(verdict);
    if (stopDeadline) stopDeadline();
    signal.removeEventListener("abort", leave);
    calls.delete(call);
    for (const check of checks) check(call);
    if (outcome.status === "error" && outcome.error) {
      const { error, receipt } = outcome;
      const attempt = call.servedBy ?? call.attempts.findLast((each) => each.error === error);
      if (attempt) tellServer(call, attempt);
      const frame = { ...toFrame(error, call.id), ...(receipt && { receipt }), headers: call.headers };
      listeners.tell("frame:error", frame, call);
      run.sink.write(frame);
    }
    controller.abort(outcome.error ?? OVER); // hooks and plugins that watch `call.signal`
    if (!refusal) listeners.tell("call:end", call, outcome);
    if (calls.size === 0) drained?.();
    return outcome;
  };

  function refuse(): AimoError | undefined {
    const retryAfter = 1_000;
    if (drained) return new AimoError("OVERLOADED", "The node is shutting down; ask another one.", { retryAfter });
    if (calls.size < settings.limits.calls) return undefined;
    return new AimoError(
      "OVERLOADED",
      `All ${settings.limits.calls} calls of this node are in use (limits.calls); try again shortly.`,
      { retryAfter },
    );
  }

  async function serve(run: Run): Promise<Verdict> {
    const { request, call, listeners, routers, without } = run;
    // A receipt is about what the other side sent, whatever becomes of it here.
    if (listeners.has("frame:request")) run.digest = sha256(request.body);
    await listeners.guard("call:start", call, request);
    await listeners.guard("frame:request", request, call);
    if (call.signal.aborted) return { error: cancelled(call.signal.reason) };
    const candidates = catalog.find(request, call.origin).filter(({ id }) => !without.includes(id));
    // A relay routes nothing: the node that faces the client has chosen.
    const chain = call.origin.kind === "peer" && candidates.every(({ local }) => !local) ? [] : routers;
    let targets: Iterator<Target, void, undefined> = order(chain, candidates, request, call);
    if (listeners.has("call:route")) {
      const all = [...(targets as Generator<Target>)];
      targets = all.values() as Iterator<Target, void, undefined>;
      await listeners.guard("call:route", call, all);
    }
    return tryTargets(targets, run, kernel);
  }

  return {
    open,
    route(newRequest, origin) {
      const request = createRequest(newRequest, identity.peerId, runtime);
      const call = createCall(request, origin, new AbortController().signal, 0);
      return decide(kernel.routers(), () => catalog.find(request, origin), request, call);
    },
    get calls() {
      return calls.keys();
    },
    get size() {
      return calls.size;
    },
    async settled(ms) {
      const left = new Set(calls.keys());
      if (left.size === 0) return;
      const { promise, resolve } = Promise.withResolvers<void>();
      const check = (call: LiveCall): void => void (left.delete(call) && left.size === 0 && resolve());
      checks.add(check);
      const stop = runtime.setTimeout(ms, resolve);
      await promise;
      stop();
      checks.delete(check);
    },
    drain(ms) {
      const { promise, resolve } = Promise.withResolvers<void>();
      drained = resolve;
      if (calls.size === 0) resolve();
      const stop = runtime.setTimeout(ms, () => {
        const error = new AimoError("OVERLOADED", "The node was shut down before the answer was complete.");
        for (const controller of calls.values()) controller.abort(error);
      });
      return promise.finally(stop);
    },
  };
}

function shorter(own: Run["timeouts"], asked: Run["timeouts"] = own): Run["timeouts"] {
  return { firstChunk: Math.min(own.firstChunk, asked.firstChunk), gap: Math.min(own.gap, asked.gap) };
}

function toOutcome({ error, receipt }: Verdict): Outcome {
  const status = error === undefined ? "ok" : error.code === "CANCELLED" ? "cancelled" : "error";
  return { status, ...(error && { error }), ...(receipt && { receipt }) };
}

function overdue(ms: number): AimoError {
  return new AimoError("REQUEST_TIMEOUT", `The call took longer than ${ms} ms (timeouts.total).`, { retryable: false });
}
