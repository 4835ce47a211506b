/** What providers are asked for in these runs: beside what OpenAI knows, which nodes must let through. */
export interface Wanted {
  /** Numbered chunks, one every `every` ms; `id` is in each. */
  readonly numbered?: { readonly id: string; readonly chunks: number; readonly every: number };
  /** A stream of so many bytes, as fast as it is taken. */
  readonly bytes?: number;
  /** A small whole answer after so many ms. */
  readonly after?: number;
}

export const DONE = "data: [DONE]\n\n";

export function eventOf(id: string, number: number): string {
  return `data: {"choices":[{"index":0,"delta":{"content":"${id} ${number}"}}]}\n\n`;
}

export function bodyOf(model: string, wanted: Wanted): string {
  const stream = wanted.after === undefined;
  return JSON.stringify({ model, stream, messages: [{ role: "user", content: "Count." }], wanted });
}

/** How a reply ended, and what was wrong with it. */
export interface Checked {
  /** Right ones. */
  readonly chunks: number;
  readonly how: "complete" | "error" | "left" | "wrong";
  /** Code of the typed error, or what is wrong. */
  readonly why?: string;
}

/**
 * Checks a reply of numbered chunks as it comes: complete and byte-equal, or a prefix and one typed error. Whatever
 * else happens is wrong: a gap, a duplicate, other bytes, an end without a word.
 */
export function createCheck(
  id: string,
  wanted: number,
): {
  readonly chunks: number;
  add(text: string): void;
  /** No more comes; `left`: it was not waited for. */
  end(left?: boolean): Checked;
} {
  let rest = "";
  let next = 0;
  let done = false;
  let failed: string | undefined;
  let wrong: string | undefined;

  function event(text: string): void {
    if (wrong !== undefined || text.startsWith(":")) return; // a comment keeps the connection alive
    if (failed !== undefined) wrong = `something behind the error ${failed}`;
    else if (done) wrong = "something behind [DONE]";
    else if (text === eventOf(id, next)) next++;
    else if (text === DONE) {
      done = true;
      if (next < wanted) wrong = `an end after ${next} of ${wanted} chunks`;
    } else unexpected(text);
  }

  function unexpected(text: string): void {
    const code = codeOf(text.replace(/^data: /, ""));
    if (code !== undefined) failed = code;
    else wrong = `${JSON.stringify(text.slice(0, 200))} instead of chunk ${next}`;
  }

  return {
    get chunks() {
      return next;
    },
    add(text) {
      rest += text;
      let from = 0;
      for (let to = rest.indexOf("\n\n"); to !== -1; to = rest.indexOf("\n\n", from)) {
        event(rest.slice(from, to + 2));
        from = to + 2;
      }
      rest = rest.slice(from);
    },
    end(left = false) {
      if (wrong !== undefined) return { chunks: next, how: "wrong", why: wrong };
      if (left) return { chunks: next, how: "left" };
      if (rest !== "") return { chunks: next, how: "wrong", why: `half an event: ${JSON.stringify(rest)}` };
      if (failed !== undefined) return { chunks: next, how: "error", why: failed };
      if (done) return { chunks: next, how: "complete" };
      return { chunks: next, how: "wrong", why: `a silent end after ${next} of ${wanted} chunks` };
    },
  };
}

/** Of an error object; undefined where there is none. */
export function codeOf(text: string): string | undefined {
  try {
    const { error } = JSON.parse(text) as { error?: { code?: unknown } };
    return typeof error?.code === "string" ? error.code : undefined;
  } catch {
    return undefined;
  }
}
