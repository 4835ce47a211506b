import { AttemptCall } from "./attempt-call.ts";
import type { Attempt, Call } from "./call.ts";
import { AimoError, whereOf } from "./error.ts";
import type { RequestFrame } from "./frame.ts";
import { openGate, type Elsewhere, type Gate, type Verdict } from "./gate.ts";
import type { Listeners } from "./listeners.ts";
import type { LiveCall } from "./live-call.ts";
import type { LiveAttempt, Sink, Target } from "./parts.ts";
import type { Kernel } from "./pipeline.ts";
import { take, type NamedRouter } from "./route.ts";
import { deadline } from "./runtime.ts";
import { learn } from "./stats.ts";
import { createSeal } from "./wire/receipt.ts";

/** What the attempts of a call share. */
export interface Run {
  readonly request: RequestFrame;
  readonly call: LiveCall;
  readonly sink: Sink;
  readonly listeners: Listeners;
  readonly routers: readonly NamedRouter[];
  readonly without: readonly string[];
  readonly timeouts: { readonly firstChunk: number; readonly gap: number };
  /** Of the request's body as it came: set when a hook may change it. */
  digest?: Uint8Array;
}

/** So many targets that a guard skips are no tries: nobody was asked. Where all are skipped, a call must end all the same. */
const SKIPS = 32;

/** Attempts that run beside each other, until one has something to say. */
interface Race {
  readonly gates: Set<Gate>;
  /** No more are begun. */
  stop(): void;
}

/**
 * Tries targets until something of substance has passed: one after the other, and with `call.hedgeAfter` one beside the
 * other, where those before let that time go by. The first that has something to say wins, and the others are given up.
 */
export async function tryTargets(
  targets: Iterator<Target, void, undefined>,
  { request, call, sink, listeners, timeouts: watched, digest }: Run,
  { identity, runtime, settings, hooks }: Kernel,
): Promise<Verdict> {
  let next = take(targets);
  let skipped = 0;
  let verdict: Verdict;
  do {
    const target = pull();
    verdict = await (call.hedgeAfter === undefined ? attempt(target) : race(target));
  } while (verdict.elsewhere === "next");
  return verdict;

  function pull(): Target {
    const target = next as Target;
    next = undefined;
    return target;
  }

  function hasNext(): boolean {
    if (next !== undefined) return true;
    const asked = call.attempts.length - Math.min(skipped, SKIPS);
    if (call.signal.aborted || asked >= settings.limits.attempts) return false;
    try {
      return (next = take(targets)) !== undefined;
    } catch (error) {
      // A gate asks from timers and listeners too, where nobody would catch what a lazy router throws.
      hooks.tell("node:error", AimoError.from(error));
      return false;
    }
  }

  /** Does another attempt than this one run? */
  function runs(except?: Attempt): boolean {
    return call.attempts.some((other) => other !== except && other.endedAt === undefined);
  }

  /** Of attempts that run beside each other, exactly one gets another answer than "beside": the winner, or the last to fail. */
  function elsewhere(own: Attempt, retryable: boolean): Elsewhere {
    if (runs(own)) return "beside";
    return retryable && hasNext() ? "next" : undefined;
  }

  /** From this target on, with more beside it. */
  function race(first: Target): Promise<Verdict> {
    const { promise, resolve, reject } = Promise.withResolvers<Verdict>();
    const round: Race = { gates: new Set(), stop: () => undefined };
    begin(first);
    return promise;

    function begin(target: Target): void {
      const ms = call.hedgeAfter;
      if (ms !== undefined && ms >= 0) round.stop = deadline(runtime, ms, () => beside(target.model.id));
      attempt(target, round).then((ended) => {
        if (ended.elsewhere === "beside") return;
        round.stop();
        resolve(ended);
      }, reject);
    }

    /** Another model is for when this one fails, not for when it is slow. */
    function beside(model: string): void {
      if (call.hedgeAfter === undefined || !runs() || !hasNext() || next?.model.id !== model) return;
      begin(pull());
    }
  }

  async function attempt(target: Target, round?: Race): Promise<Verdict> {
    const record: LiveAttempt = { target: target.id, startedAt: runtime.now() };
    if (target.translated && !target.local) record.modified = true;
    call.attempts.push(record);
    const gate = openGate({
      call,
      attempt: record,
      sink,
      listeners,
      runtime,
      provider: target.provider,
      seal: target.local ? createSeal(request, target.model.id, identity, runtime, digest) : undefined,
      timeouts: target.local ? watched : undefined,
      elsewhere: (retryable) => elsewhere(record, retryable),
      won: round && (() => win(gate, round)),
    });
    round?.gates.add(gate);
    const giveUp = (): void => gate.fail(cancelled(call.signal.reason));
    call.signal.addEventListener("abort", giveUp, { once: true });
    if (call.signal.aborted) giveUp();
    const asked = askedOf(target, request, listeners);
    try {
      const pending = listeners.guard("call:attempt", call, target, asked);
      if (pending !== undefined) await pending;
    } catch (error) {
      const { code, message, data } = AimoError.from(error);
      if (code !== "PLUGIN_FAILED") skipped++;
      gate.fail(new AimoError(code, message, { ...data, retryable: true })); // skips this target alone
    }
    const done = gate.signal.aborted ? undefined : learn(target.stats, record, call, runtime);
    if (done) void handle(target, asked, call, gate);
    const verdict = await gate.verdict;
    call.signal.removeEventListener("abort", giveUp);
    done?.();
    if (done) listeners.tell("call:attempted", call, target, record);
    return verdict;
  }
}

function win(winner: Gate, { gates, stop }: Race): void {
  stop();
  for (const gate of gates)
    if (gate !== winner) gate.fail(new AimoError("CANCELLED", "Another provider answered first."));
}

/** The request as this target gets it; headers that a hook adds are for it alone. */
function askedOf({ model }: Target, request: RequestFrame, listeners: Listeners): RequestFrame {
  const other = request.model !== undefined && request.model !== model.id;
  const hooked = listeners.has("call:attempt");
  if (!other && !hooked) return request;
  return { ...request, ...(other && { model: model.id }), ...(hooked && { headers: { ...request.headers } }) };
}

/** Runs the handler; whatever it does, the attempt ends. */
async function handle(target: Target, request: RequestFrame, call: Call, gate: Gate): Promise<void> {
  const view = new AttemptCall(call, gate.signal);
  const { provider } = target;
  try {
    await target.handle(request, gate.reply, view);
    gate.returned();
  } catch (cause) {
    if (AimoError.is(cause)) return gate.fail(cause);
    const detail = whereOf(cause);
    gate.fail(
      new AimoError("PLUGIN_FAILED", `The provider ${provider} failed.`, {
        plugin: provider,
        retryable: true,
        detail,
        cause,
      }),
    );
  }
}

/** Why a signal was aborted. */
export function cancelled(reason: unknown): AimoError {
  return AimoError.is(reason) ? reason : new AimoError("CANCELLED", "The client left.");
}
