import { Agent as HttpAgent, request as requestHttp, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as requestHttps } from "node:https";
import { createReader } from "../../plugins/translators/_events.ts";
import { keyHeaders } from "./ask.ts";
import type { ChatChunk } from "./sse.ts";

/** One call. Times are ms. */
export interface Measured {
  /** From when the call was due. */
  readonly firstChunk?: number;
  /** Between two chunks; those that came in one piece have none between them. */
  readonly gaps: readonly number[];
  readonly chunks: number;
  readonly bytes: number;
  /** The error's code; `cut` for an answer without its end. */
  readonly error?: string;
}

export interface BenchClient {
  call(due: number, signal: AbortSignal): Promise<Measured>;
  close(): void;
}

/** Reads as fast as it can: `node:http`, no queue between socket and counter. */
export function createClient(api: string, body: string): BenchClient {
  const url = new URL(`${api}/v1/chat/completions`);
  const secure = url.protocol === "https:";
  const agent = secure ? new HttpsAgent({ keepAlive: true }) : new HttpAgent({ keepAlive: true });
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body), ...keyHeaders() };
  return {
    call: (due, signal) =>
      new Promise((resolve) => {
        const make = secure ? requestHttps : requestHttp;
        const asked = make(url, { method: "POST", agent, headers, signal });
        asked.once("response", (answer) => void measure(answer, due, signal).then(resolve));
        asked.once("error", (cause: NodeJS.ErrnoException) =>
          resolve({ gaps: [], chunks: 0, bytes: 0, error: signal.aborted ? "stopped" : (cause.code ?? cause.message) }),
        );
        asked.end(body);
      }),
    close: () => agent.destroy(),
  };
}

function measure(answer: IncomingMessage, due: number, signal: AbortSignal): Promise<Measured> {
  const status = answer.statusCode ?? 0;
  const gaps: number[] = [];
  let [chunks, bytes, last]: [number, number, number] = [0, 0, 0];
  let firstChunk: number | undefined;
  let error: string | undefined;
  let done = false;
  const refusal: Buffer[] = [];
  const read = createReader();

  function event(data: string, now: number): void {
    if (data === "[DONE]") return void (done = true);
    if (data.includes('"error"')) error ??= codeOf(data);
    chunks++;
    if (firstChunk === undefined) firstChunk = now - due;
    else gaps.push(now - last);
    last = now;
  }

  answer.on("data", (piece: Buffer) => {
    bytes += piece.length;
    const now = performance.now();
    if (status >= 400) refusal.push(piece);
    else for (const data of read(piece)) event(data, now);
  });
  return new Promise((resolve) => {
    answer
      .on("error", () => undefined)
      .once("close", () => {
        const why = signal.aborted
          ? "stopped"
          : status >= 400
            ? (codeOf(Buffer.concat(refusal).toString()) ?? `status ${status}`)
            : (error ?? (done ? undefined : "cut"));
        resolve({
          gaps,
          chunks,
          bytes,
          ...(firstChunk !== undefined && { firstChunk }),
          ...(why !== undefined && { error: why }),
        });
      });
  });
}

/** Of an error object; undefined when there is none. */
function codeOf(text: string): string | undefined {
  try {
    const { error } = JSON.parse(text) as ChatChunk;
    return error && String(error.code ?? error.message ?? "error");
  } catch {
    return undefined;
  }
}
