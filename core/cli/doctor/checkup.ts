import { styleText } from "node:util";
import type { Awaitable } from "../../parts.ts";
import { plain } from "../table.ts";

export interface Finding {
  readonly layer: string;
  /** What was looked at. */
  readonly about: string;
  readonly ok: boolean;
  readonly ms: number;
  /** A remark; of a failure what is wrong, and what to do. */
  readonly said?: string;
}

export interface Checkup {
  readonly findings: readonly Finding[];
  /** What `run` returns is a remark, what it throws is why it failed; false then. Never rejects. */
  check(layer: string, about: string, run: () => Awaitable<string | void>): Promise<boolean>;
}

/** `tell` gets each finding as it is made. */
export function createCheckup(tell: (finding: Finding) => void): Checkup {
  const findings: Finding[] = [];
  return {
    findings,
    async check(layer, about, run) {
      const start = performance.now();
      let ok = true;
      let said: string | undefined;
      try {
        said = (await run()) ?? undefined;
      } catch (error) {
        ok = false;
        said = error instanceof Error ? error.message : String(error);
      }
      const ms = Math.round(performance.now() - start);
      const finding = { layer, about, ok, ms, ...(said !== undefined && { said: plain(said) }) };
      findings.push(finding);
      tell(finding);
      return ok;
    },
  };
}

export function toLine({ layer, about, ok, ms, said }: Finding): string {
  const mark = ok ? styleText("green", "ok    ") : styleText("red", "FAILED");
  const line = `${mark}  ${layer.padEnd(10)}  ${plain(about)}  ${styleText("dim", `${ms} ms`)}`;
  return said === undefined ? `${line}\n` : `${line}\n          ${ok ? styleText("dim", said) : said}\n`;
}

/** Resolves with the first; rejects with this sentence after `ms`. */
export async function within<T>(ms: number, sentence: string, first: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => reject(new Error(sentence)), ms);
  try {
    return await Promise.race([first, late]);
  } finally {
    clearTimeout(timer);
  }
}
