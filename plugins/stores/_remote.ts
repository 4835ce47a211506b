import { createHash } from "node:crypto";
import { z } from "zod";
import { AimoError } from "../../core/error.ts";
import { mask } from "../../core/mask.ts";
import type { AimoNode } from "../../core/node.ts";
import { deadline } from "../../core/runtime.ts";
import type { Store } from "./_store.ts";

/** Options of every store that is a server. */
export interface RemoteOptions {
  /**
   * While the server cannot be used: go on with what this node knows (`open`), also at start, or refuse calls that need it,
   * and not start without it (`closed`). Default "open".
   */
  whenDown?: Store["whenDown"];
  /**
   * ms that one operation may take, connecting included; then the server counts as down. A statement for a plugin's own
   * tables, which no call waits for, has ten times as long. Default 500.
   */
  timeout?: number;
}

export const remoteOptions = {
  whenDown: z.enum(["open", "closed"]).default("open"),
  timeout: z.number().int().positive().default(500),
};

/** ms between two probes, and when a client is to come back. */
const AGAIN = 1_000;
/** What has no answer makes connections anew, but not each time: making one may take longer than an operation. */
const PATIENCE = 5;

export interface Remote {
  /** Settles within `ms`, by default the timeout; while the server is down at once, with OVERLOADED. */
  ask<T>(operation: () => Promise<T>, ms?: number): Promise<T>;
  /** The connection ended while nobody asked. */
  lost(error: Error): void;
  /** Resolves when it can be used, or may be down; rejects with CONFIG_INVALID. */
  start(): Promise<void>;
  close(): void;
}

export interface RemoteSpec extends Required<RemoteOptions> {
  readonly plugin: string;
  readonly url: string;
  /** Connects if need be, and does what every operation needs. */
  probe(signal: AbortSignal): Promise<unknown>;
  /** Drops connections that may be dead. */
  reset(): void;
  /** Is it about what was asked, and not about the server? Such an error is passed on as it is. */
  refused?(error: unknown): boolean;
}

/** A server that may be away: nobody waits for it longer than the timeout, and it is asked once a second whether it is back. */
export function openRemote(node: AimoNode, spec: RemoteSpec): Remote {
  const { plugin, whenDown, timeout } = spec;
  const where = addressOf(spec.url);
  const late = new Error(`no answer within ${timeout} ms`);
  let isUp = false;
  let isTold = false;
  let isClosed = false;
  let unanswered = 0;
  let over = new AbortController();
  let cancel = (): void => {};

  async function within<T>(operation: () => Promise<T>, ms = timeout): Promise<T> {
    const { promise, reject } = Promise.withResolvers<never>();
    const error = ms === timeout ? late : new Error(`no answer within ${ms} ms`);
    const stop = deadline(node.runtime, ms, () => reject(error));
    try {
      return await Promise.race([operation(), promise]);
    } finally {
      stop();
    }
  }

  function blame(error: unknown): void {
    if (error === late && unanswered++ % PATIENCE === 0) spec.reset();
  }

  /** What keeps it from being used, if anything. */
  async function probe(): Promise<unknown> {
    over = new AbortController();
    try {
      await within(() => spec.probe(over.signal));
    } catch (error) {
      blame(error);
      return error;
    } finally {
      over.abort();
    }
    isUp = !isClosed;
    unanswered = 0;
    if (isTold && isUp) node.log("info", `${where} can be used again.`);
    isTold = false;
    return undefined;
  }

  function wait(error: unknown): void {
    if (isClosed) return;
    const meanwhile =
      whenDown === "open" ? "the node goes on with what it knows by itself" : "calls that need it are refused";
    if (!isTold) node.log("warn", `${where} cannot be used (${reasonOf(error)}): ${meanwhile} until it can.`);
    isTold = true;
    cancel = node.runtime.setTimeout(AGAIN, () => void recover());
  }

  async function recover(): Promise<void> {
    const error = await probe();
    if (error !== undefined) wait(error);
  }

  function down(error: unknown): void {
    if (!isUp || isClosed) return;
    isUp = false;
    // The probe may find it well.
    node.log("debug", `${where} failed (${reasonOf(error)}).`);
    blame(error);
    void recover();
  }

  function away(cause?: unknown): AimoError {
    const detail = cause === undefined ? where : `${where}: ${reasonOf(cause)}`;
    const message = "What this node shares with others cannot be reached now. Try again shortly.";
    return new AimoError("OVERLOADED", message, { retryAfter: AGAIN, detail, cause });
  }

  return {
    async ask(operation, ms) {
      if (!isUp) throw away();
      try {
        return await within(operation, ms);
      } catch (error) {
        if (spec.refused?.(error)) throw error;
        down(error);
        throw away(error);
      }
    },
    lost: down,
    async start() {
      const error = await probe();
      if (error === undefined) return;
      if (whenDown === "open") return wait(error);
      const advice = 'Start it, correct `url`, or set `whenDown: "open"` to start without it.';
      throw new AimoError("CONFIG_INVALID", `${plugin}: ${where} cannot be used (${reasonOf(error)}). ${advice}`, {
        plugin,
        cause: error,
      });
    },
    close() {
      isClosed = true;
      isUp = false;
      over.abort();
      cancel();
    },
  };
}

/** The URL for `options`, so that a reload sees another password, and nobody what it is. */
export function shown(url: string): { url: unknown; mark: string } {
  return { url: mask(url), mark: `sha256:${createHash("sha256").update(url).digest("hex").slice(0, 8)}` };
}

/** Without who and how. */
function addressOf(url: string): string {
  const { protocol, host, pathname } = new URL(url);
  return `${protocol}//${host}${pathname}`;
}

/** Connecting to several addresses of a name fails with an error that says nothing but a code. */
function reasonOf(error: unknown): string {
  const { message, code } = error as NodeJS.ErrnoException;
  return String(mask(message || code || "unknown"));
}
