import { z } from "zod";
import type { Call, Outcome } from "../../core/call.ts";
import { checkOptions } from "../../core/config.ts";
import { AimoError, whereOf } from "../../core/error.ts";
import type { AimoNode } from "../../core/node.ts";
import type { Plugin } from "../../core/plugin.ts";
import { openRotating, type RotatingFile } from "./_rotating.ts";

/** Takes what is secret out of a text, of which only the beginning may be there. */
export type Redact = (text: string, of: "request" | "reply") => string;

export interface RequestLogOptions {
  /** Where the lines go: readable for its owner alone, with `file.1`, `file.2`, … beside it. */
  file: string;
  /** A file that would become larger makes way for a new one. Bytes. Default 64 MiB. */
  maxBytes?: number;
  /** Old files that are kept. Default 5. */
  files?: number;
  /** Prompts and replies are written too, as this leaves them. Default: they are not. Its node hashes the replies of peers once more for it. */
  bodies?: Redact;
  /** Of each body, the beginning. Bytes. Default 8,192. */
  maxBody?: number;
}

const schema = z.strictObject({
  file: z.string().min(1),
  maxBytes: z
    .number()
    .int()
    .min(4_096)
    .default(64 * 1_048_576),
  files: z.number().int().min(1).max(1_000).default(5),
  bodies: z.custom<Redact>((value) => typeof value === "function", "must be a function that redacts").optional(),
  maxBody: z.number().int().positive().max(1_048_576).default(8_192),
});

/** Characters of what a client or a peer chose. */
const LONGEST = 200;
/** A call may have as many attempts as the config says. */
const ATTEMPTS = 10;

/** What a call does not know of itself. */
interface Asked {
  readonly type: string;
  readonly model: string | undefined;
  request?: Buffer;
  reply?: Buffer[];
  bytes: number;
}

/** One JSON line for each call, in files that rotate. Never a key or a header, and no prompt or reply unless `bodies` redacts them. */
export function requestLog(options: RequestLogOptions): Plugin {
  let settings = checkOptions("observer-request-log", schema, options);
  const asked = new WeakMap<Call, Asked>();
  let node: AimoNode;
  let out: RotatingFile;

  /** Of a reply no more than `maxBody` is held; copied, since a chunk lies in a larger buffer. */
  function keep(call: Call, body: Uint8Array): undefined {
    const about = asked.get(call);
    if (about === undefined || about.bytes >= settings.maxBody || body.length === 0) return;
    const piece = Buffer.from(body.subarray(0, settings.maxBody - about.bytes));
    about.bytes += piece.length;
    (about.reply ??= []).push(piece);
  }

  function redacted(body: Buffer | undefined, of: "request" | "reply"): string | undefined {
    if (body === undefined || settings.bodies === undefined) return undefined;
    try {
      return String(settings.bodies(body.toString(), of)).slice(0, settings.maxBody);
    } catch (error) {
      node.log("error", "a body was not redacted, and is left out of the request log", { detail: whereOf(error) });
      return undefined;
    }
  }

  const line = (fields: object): string =>
    `${JSON.stringify({ time: new Date(node.runtime.now()).toISOString(), ...fields })}\n`;

  return {
    name: "observer-request-log",
    options: settings,
    hooks: {
      "call:start": (call, { type, model }) => void asked.set(call, { type, model, bytes: 0 }),
      "call:end"(call, outcome) {
        const about = asked.get(call);
        const request = redacted(about?.request, "request");
        const reply = redacted(about?.reply && Buffer.concat(about.reply), "reply");
        asked.delete(call);
        out.write(line({ ...describe(call, outcome, about, node.runtime.now()), request, reply }));
      },
      ...(settings.bodies && {
        "frame:request"({ body }, call) {
          const about = asked.get(call);
          if (about) about.request = Buffer.from(body.subarray(0, settings.maxBody));
        },
        "frame:response": ({ body }, call) => keep(call, body),
        "frame:chunk": ({ body }, call) => keep(call, body),
      }),
    },
    async setup(face) {
      node = face;
      const lost = (error: unknown): void =>
        node.log("warn", "the request log cannot be written; its lines are lost", { detail: whereOf(error) });
      try {
        out = await openRotating(
          () => settings,
          lost,
          (count) => line({ lost: count }),
        );
      } catch (cause) {
        const message = `observer-request-log: cannot open ${settings.file} (${(cause as Error).message}).`;
        throw new AimoError("CONFIG_INVALID", message, { plugin: "observer-request-log", cause });
      }
    },
    update({ options: next }) {
      const wanted = next as typeof settings;
      if (wanted.file !== settings.file || (wanted.bodies === undefined) !== (settings.bodies === undefined))
        return false;
      settings = wanted;
      return true;
    },
    close: () => out?.close(),
  };
}

/** What is undefined is left out by JSON. The text of an error is in the log of the node. */
function describe(call: Call, { status, error, receipt }: Outcome, about: Asked | undefined, now: number): object {
  const { id, origin, startedAt, attempts, servedBy, chunks, bytes } = call;
  const cut = (text: string | undefined): string | undefined => text?.slice(0, LONGEST);
  const ms = (from: number, to: number | undefined): number | undefined =>
    to === undefined ? undefined : Math.max(0, Math.round(to - from));
  return {
    call: id,
    via: origin.via,
    client: origin.client ?? origin.peer ?? origin.kind,
    type: cut(about?.type),
    model: cut(about?.model),
    outcome: status,
    code: error?.code,
    status: error?.status ?? receipt?.status,
    target: cut(servedBy?.target),
    attempts: attempts.slice(0, ATTEMPTS).map((attempt) => ({
      target: cut(attempt.target),
      transport: attempt.link ?? "local",
      firstChunkMs: ms(attempt.startedAt, attempt.firstChunkAt),
      ms: ms(attempt.startedAt, attempt.endedAt),
      code: attempt.error?.code,
    })),
    firstChunkMs: ms(startedAt, servedBy?.firstChunkAt),
    ms: ms(startedAt, now),
    chunks,
    bytes,
    usage: receipt?.usage && {
      promptTokens: receipt.usage.promptTokens,
      completionTokens: receipt.usage.completionTokens,
      cost: receipt.usage.cost,
    },
  };
}
