import type { Attempt, Call, Origin, Outcome } from "../../core/call.ts";
import type { Runtime } from "../../core/runtime.ts";
import type { Usage } from "../../core/frame.ts";
import { createRecent } from "./_recent.ts";

/** How the newest calls of clients went, in the form of OpenRouter's `GET /generation`. */
export interface Generations {
  add(call: Call, outcome: Outcome): void;
  /** A receipt has come, perhaps after the end. */
  update(call: Call): void;
  /** Throws CALL_NOT_FOUND unless this client made the call, and it has ended. It is kept for 10 minutes. */
  show(id: string, asker: Origin, runtime: Pick<Runtime, "now">): object;
}

interface KeptAttempt extends Pick<Attempt, "target" | "startedAt"> {
  readonly firstChunkAt: number | undefined;
  readonly endedAt: number | undefined;
  /** HTTP status. */
  readonly status: number;
  readonly usage: Usage | undefined;
  /** Its answer is the one that the client got. */
  readonly served: boolean;
}

interface Facts {
  readonly startedAt: number;
  readonly streamed: boolean;
  readonly cancelled: boolean;
  readonly via: string;
}

export function createGenerations(): Generations {
  const calls = createRecent<Facts, KeptAttempt>(
    "There is no such call of yours that has ended. They are kept for 10 minutes.",
    kept,
  );

  return {
    add(call, { status }) {
      const { startedAt, chunks, origin } = call;
      calls.add(call, {
        startedAt,
        streamed: chunks > 0,
        cancelled: status === "cancelled",
        via: origin.via,
      });
    },
    update: calls.update,
    show(id, asker, runtime) {
      const { attempts, startedAt, streamed, cancelled, via } = calls.find(id, asker, runtime);
      const answered = attempts.findLast(({ served }) => served) ?? attempts.at(-1);
      const { promptTokens, completionTokens, cost } = answered?.usage ?? {};
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
          status: attempt.status,
          latency: attempt.firstChunkAt === undefined ? null : rounded(attempt.firstChunkAt - attempt.startedAt),
        })),
      };
      return { data };
    },
  };
}

function kept(attempt: Attempt, { servedBy }: Call): KeptAttempt {
  const { target, startedAt, firstChunkAt, endedAt, error, receipt } = attempt;
  const status = error?.status ?? receipt?.status ?? 200;
  return { target, startedAt, firstChunkAt, endedAt, status, usage: receipt?.usage, served: attempt === servedBy };
}

/** Of `peer/provider/model`; a model may have slashes of its own. */
function partsOf(attempt: Pick<KeptAttempt, "target"> | undefined): { provider: string | null; model: string | null } {
  const [, provider, ...model] = attempt?.target.split("/") ?? [];
  return { provider: provider ?? null, model: provider === undefined ? null : model.join("/") };
}

function rounded(ms: number): number {
  return Math.round(ms);
}
