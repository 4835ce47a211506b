import type { Attempt, Call, Origin, Outcome } from "../../core/call.ts";
import type { Runtime } from "../../core/runtime.ts";
import { createRecent } from "./_recent.ts";

/** How the newest calls of clients went, in the form of OpenRouter's `GET /generation`. */
export interface Generations {
  add(call: Call, outcome: Outcome): void;
  /** Throws CALL_NOT_FOUND unless this client made the call, and it has ended. It is kept for 10 minutes. */
  show(id: string, asker: Origin, runtime: Pick<Runtime, "now">): object;
}

interface Facts {
  readonly startedAt: number;
  readonly streamed: boolean;
  readonly cancelled: boolean;
  readonly servedBy: Attempt | undefined;
  readonly via: string;
}

export function createGenerations(): Generations {
  const calls = createRecent<Facts>("There is no such call of yours that has ended. They are kept for 10 minutes.");

  return {
    add(call, { status }) {
      const { startedAt, chunks, servedBy, origin } = call;
      calls.add(call, {
        startedAt,
        streamed: chunks > 0,
        cancelled: status === "cancelled",
        servedBy,
        via: origin.via,
      });
    },
    show(id, asker, runtime) {
      const { attempts, startedAt, streamed, cancelled, servedBy, via } = calls.find(id, asker, runtime);
      const answered = servedBy ?? attempts.at(-1);
      const { promptTokens, completionTokens, cost } = answered?.receipt?.usage ?? {};
      const { firstChunkAt, endedAt } = answered ?? {};
      const data = {
        id,
        upstream_id: null,
        created_at: new Date(startedAt).toISOString(),
        model: partsOf(answered).model,
        provider_name: partsOf(answered).provider,
        /** Unlike at OpenRouter it says at whose. */
        provider: answered?.target.split("/", 2).join("/") ?? null,
        streamed,
        cancelled,
        latency: firstChunkAt === undefined ? null : rounded(firstChunkAt - startedAt),
        generation_time: firstChunkAt === undefined || endedAt === undefined ? null : rounded(endedAt - firstChunkAt),
        tokens_prompt: promptTokens ?? null,
        tokens_completion: completionTokens ?? null,
        native_tokens_prompt: promptTokens ?? null,
        native_tokens_completion: completionTokens ?? null,
        usage: cost ?? null,
        total_cost: cost ?? null,
        finish_reason: null,
        origin: via,
        provider_responses: attempts.map((attempt) => ({
          provider_name: partsOf(attempt).provider,
          provider: attempt.target.split("/", 2).join("/"),
          model: partsOf(attempt).model,
          status: attempt.error?.status ?? attempt.receipt?.status ?? 200,
          latency: attempt.firstChunkAt === undefined ? null : rounded(attempt.firstChunkAt - attempt.startedAt),
        })),
      };
      return { data };
    },
  };
}

/** Of `peer/provider/model`; a model may have slashes of its own. */
function partsOf(attempt: Attempt | undefined): { provider: string | null; model: string | null } {
  const [, provider, ...model] = attempt?.target.split("/") ?? [];
  return { provider: provider ?? null, model: provider === undefined ? null : model.join("/") };
}

function rounded(ms: number): number {
  return Math.round(ms);
}
