import type { Writable } from "node:stream";
import { pino, type DestinationStream } from "pino";
import { z } from "zod";
import {
  checkOptions,
  type AimoError,
  type AimoNode,
  type Call,
  type LogFields,
  type LogLevel,
  type Outcome,
  type Plugin,
  type Target,
} from "../../core/index.ts";

export interface LoggerOptions {
  /** The least level that is written. Default "info". */
  level?: LogLevel;
  /** Gets one line per event: JSON, or short readable lines when it is a terminal. Default stderr: stdout belongs to `--json`. */
  destination?: Writable & { readonly isTTY?: boolean };
}

const isWritable = (value: unknown): boolean => typeof (value as Writable | null)?.write === "function";
const schema = z.strictObject({
  level: z.enum(["debug", "info", "warn", "error"]).default("info"),
  destination: z
    .custom<NonNullable<LoggerOptions["destination"]>>(isWritable, "must be a writable stream")
    .default(() => process.stderr),
});

/** Model names in one `catalog` line. */
const NAMES = 10;
/** Characters of what a client or a peer chose. */
const LONGEST = 200;

/** One line per call, and what happens to peers, links and the catalog. Never a prompt, a reply, a header or a key. */
export function logger(options: LoggerOptions = {}): Plugin {
  const { level, destination } = checkOptions("observer-logger", schema, options);
  const log = pino(
    {
      level,
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    destination.isTTY === true ? readable(destination) : destination,
  );
  // A call does not know what was asked of it, and one that found no target has nothing else to be told apart by.
  const asked = new WeakMap<Call, string>();
  let node: AimoNode;

  return {
    name: "observer-logger",
    enforce: "pre",
    options: { level, destination },
    provides: ["log"],
    hooks: {
      "node:ready": ({ id }) => log.info({ peer: id }, "ready"),
      "call:start": (call, { model }) => void (model !== undefined && asked.set(call, model.slice(0, LONGEST))),
      "call:end"(call, outcome) {
        const fields = describe(call, outcome, asked.get(call), node.runtime.now());
        log[outcome.status === "error" ? "warn" : "info"](fields, "call");
      },
      "peer:join": (peer) => log.info({ peer }, "peer joined"),
      "peer:leave": (peer, error) => log.info({ peer, ...toFields(error) }, "peer left"),
      "link:up": (peer, link) => log.debug({ peer, link }, "link up"),
      "link:down": (peer, link, error) => log.debug({ peer, link, ...toFields(error) }, "link down"),
      "catalog:change": (added, removed) =>
        log.info(
          { added: added.length, removed: removed.length, ...names("new", added), ...names("gone", removed) },
          "catalog",
        ),
    },
    setup(face) {
      node = face;
      node.provide("log", (at, message, fields) => log[at](fields, message));
    },
    close: () => (destination.writable ? flushed(destination) : undefined),
  };
}

function describe(call: Call, outcome: Outcome, model: string | undefined, now: number): LogFields {
  const { id, origin, startedAt, attempts, chunks, bytes } = call;
  const last = call.servedBy ?? attempts.at(-1);
  const since = (at: number): number => Math.max(0, Math.round(at - startedAt));
  return {
    call: id,
    client: origin.client ?? origin.peer ?? origin.kind,
    ...(model !== undefined && { model }),
    ...(last && { target: last.target, provider: last.target.split("/")[1] ?? "", path: last.link ?? "local" }),
    ...(last?.firstChunkAt !== undefined && { firstChunkMs: since(last.firstChunkAt) }),
    totalMs: since(now),
    chunks,
    bytes,
    attempts: attempts.length,
    outcome: outcome.status,
    ...(outcome.status === "error" && toFields(outcome.error)),
  };
}

/**
 * Of a plugin that failed also where: without that its author had nothing to go by. No other `detail`: what a plugin or a
 * parser said there may quote a prompt.
 */
function toFields(error: AimoError | undefined): LogFields {
  if (error === undefined) return {};
  const { code, message, data } = error;
  const { detail, plugin, told } = data;
  const where = code === "PLUGIN_FAILED" && plugin !== undefined && detail !== undefined && !told && { detail };
  return { code, ...(!told && { error: message.slice(0, LONGEST) }), ...where };
}

function names(key: string, targets: readonly Target[]): LogFields {
  const all = [...new Set(targets.map((target) => target.model.id.slice(0, LONGEST)))];
  if (all.length === 0) return {};
  return { [key]: all.slice(0, NAMES).join(", ") + (all.length > NAMES ? `, … (${all.length})` : "") };
}

/** Whatever was written before is out when an empty write is; a destination that breaks says so in the same way. */
function flushed(destination: Writable): Promise<void> {
  return new Promise((resolve) => destination.write("", () => resolve()));
}

const COLORS: Record<string, string> = { debug: "90", info: "32", warn: "33", error: "31" };

/** For people: `12:34:56 info  call  call=3f2a91c0 model=demo …`; colours unless NO_COLOR says otherwise. */
function readable(destination: Writable): DestinationStream {
  const colors = !process.env["NO_COLOR"];
  const paint = (code: string, text: string): string => (colors ? `\u001B[${code}m${text}\u001B[0m` : text);
  return {
    write(line) {
      const { level, time, msg, ...fields } = JSON.parse(line) as Record<string, string>;
      const rest = Object.entries(fields).map(([key, value]) => `${paint("2", `${key}=`)}${show(key, value)}`);
      const head = paint(COLORS[level as string] ?? "0", String(level).padEnd(5));
      destination.write(`${String(time).slice(11, 19)} ${head} ${[show("msg", msg, false), ...rest].join(" ")}\n`);
    },
  };
}

/** Peer ids by their end, calls by their beginning; control characters of strangers never reach the terminal. */
function show(key: string, value: unknown, quote = true): string {
  const text = String(value)
    .replaceAll(/12D3KooW[1-9A-HJ-NP-Za-km-z]{38}([1-9A-HJ-NP-Za-km-z]{6})/g, "…$1")
    .replaceAll(/[\p{Cc}\p{Cf}]/gu, "\u{FFFD}");
  if (key === "call") return text.slice(0, 8);
  return quote && /[\s"]/.test(text) ? JSON.stringify(text) : text;
}
