import { Agent, request, type ClientRequest, type IncomingMessage } from "node:http";
import { bodyOf, codeOf, createCheck, type Checked, type Wanted } from "./_numbered.ts";

const agent = new Agent({ keepAlive: true, maxSockets: Infinity, scheduling: "fifo" });

export interface Answered {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: string;
  /** From the request to the end of the answer. ms */
  readonly took: number;
}

/** One call with a whole answer. Rejects when the connection breaks. */
export function ask(api: string, model: string, wanted: Wanted): Promise<Answered> {
  const begun = performance.now();
  return new Promise((resolve, reject) => {
    post(
      api,
      bodyOf(model, wanted),
      (response) => {
        let body = "";
        response.setEncoding("utf8");
        response.on("data", (piece: string) => void (body += piece));
        response.on("error", reject);
        response.on("end", () => {
          const { statusCode: status = 0, headers } = response;
          resolve({ status, headers, body, took: performance.now() - begun });
        });
      },
      reject,
    );
  });
}

export interface Stream {
  /** Right ones so far. */
  readonly chunks: number;
  /** ms between two chunks, of all that came. */
  readonly gaps: readonly number[];
  /** When the last one came; undefined before the first. */
  readonly lastAt: number | undefined;
  readonly ended: Promise<Checked & { readonly at: number }>;
  /** Resolves when so many chunks are here, or it has ended. */
  seen(chunks: number): Promise<void>;
  leave(): void;
}

let next = 0;

/** A stream of numbered chunks that is checked as it comes. `at` is `performance.now()`. */
export function openStream(api: string, model: string, { chunks, every }: { chunks: number; every: number }): Stream {
  const id = `s${next++}`;
  const check = createCheck(id, chunks);
  const { promise: ended, resolve } = Promise.withResolvers<Checked & { at: number }>();
  const gaps: number[] = [];
  let last: number | undefined;
  let left = false;
  let over = false;
  let waiting: { chunks: number; resolve: () => void }[] = [];

  function wake(): void {
    const due = waiting.filter((each) => over || each.chunks <= check.chunks);
    if (due.length === 0) return;
    waiting = waiting.filter((each) => !due.includes(each));
    for (const each of due) each.resolve();
  }
  function end(checked: Checked): void {
    if (over) return;
    over = true;
    resolve({ ...checked, at: performance.now() });
    wake();
  }
  function respond(response: IncomingMessage): void {
    response.setEncoding("utf8");
    response.on("error", () => undefined);
    if (response.statusCode !== 200) return refused(response);
    response.on("data", (text: string) => {
      check.add(text);
      const now = performance.now();
      if (last !== undefined) gaps.push(now - last);
      last = now;
      wake();
    });
    response.on("close", () => end(check.end(left)));
  }
  /** Before the first chunk a typed error is an answer of its own. */
  function refused(response: IncomingMessage): void {
    let body = "";
    response.on("data", (text: string) => void (body += text));
    response.on("close", () => {
      const code = codeOf(body);
      if (left) end({ chunks: 0, how: "left" });
      else if (code === undefined) end({ chunks: 0, how: "wrong", why: `status ${response.statusCode}: ${body}` });
      else end({ chunks: 0, how: "error", why: code });
    });
  }

  const sent = post(api, bodyOf(model, { numbered: { id, chunks, every } }), respond, (error) =>
    end(left ? { chunks: 0, how: "left" } : { chunks: 0, how: "wrong", why: error.message }),
  );
  return {
    get chunks() {
      return check.chunks;
    },
    gaps,
    get lastAt() {
      return last;
    },
    ended,
    seen(wanted) {
      if (over || check.chunks >= wanted) return Promise.resolve();
      return new Promise((done) => waiting.push({ chunks: wanted, resolve: done }));
    },
    leave() {
      left = true;
      sent.leave();
    },
  };
}

/** Those that are kept for later requests, too. */
export function dropConnections(): void {
  agent.destroy();
}

/** Requests that found their kept connection closed by the node, and were sent again, as pooling clients do. */
export let resent = 0;

/** A plain request, pooled. */
export function post(
  api: string,
  body: string,
  respond: (response: IncomingMessage) => void,
  fail: (error: Error) => void,
  pool: Agent | false = agent,
): { leave(): void; once(event: "close", then: () => void): void } {
  const headers = { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
  const send = (from: Agent | false): ClientRequest => {
    let answered = false;
    const sent = request(`${api}/v1/chat/completions`, { method: "POST", agent: from, headers }, (response) => {
      answered = true;
      respond(response);
    });
    sent.on("error", (error: NodeJS.ErrnoException) => {
      if (answered || gone || !sent.reusedSocket || error.code !== "ECONNRESET") return fail(error);
      resent++;
      last = send(false);
    });
    sent.end(body);
    return sent;
  };
  let gone = false;
  let last = send(pool);
  return {
    leave() {
      gone = true;
      last.destroy();
    },
    once: (event, then) => void last.once(event, then),
  };
}

export function percentile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0;
}
