/** One line of the table. */
export interface Row {
  readonly fault: string;
  /** What carried it: `stream`, `memory`, `http`, … */
  readonly transport: string;
  /** What was seen: figures with their units. */
  readonly outcome: string;
  readonly goal: string;
  /** `pending`: the product does not do it yet; it fails nothing. */
  readonly pass: boolean | "pending";
}

export interface Run {
  /** The figures of a release, or about a hundredth of them. */
  readonly full: boolean;
  /** Progress, on stderr. */
  say(text: string): void;
}

/** Causes one kind of fault and measures what comes of it. Throws only when the harness itself fails. */
export type RunSection = (run: Run) => Promise<readonly Row[]>;

/** What to import, so that a section costs nothing when it is not asked for. */
export interface Section {
  readonly name: string;
  readonly about: string;
  /** Its figures are times that only a quiet machine keeps: with `--full` or by name alone. */
  readonly timed?: true;
  load(): Promise<{ readonly run: RunSection }>;
}

/** Says how far it is, at most every 5 s. */
export function progress(say: Run["say"], text: () => string): () => void {
  let told = performance.now();
  return () => {
    if (performance.now() - told < 5_000) return;
    told = performance.now();
    say(text());
  };
}

export function tableOf(rows: readonly Row[]): string {
  const word = (pass: Row["pass"]): string => (pass === "pending" ? "pending" : pass ? "ok" : "MISSED");
  const lines = [
    ["fault", "transport", "outcome", "goal", "pass"],
    ...rows.map(({ fault, transport, outcome, goal, pass }) => [fault, transport, outcome, goal, word(pass)]),
  ];
  const widths = [0, 1, 2, 3, 4].map((at) => Math.max(...lines.map((line) => line[at]?.length ?? 0)));
  return lines
    .map((line) =>
      line
        .map((cell, at) => cell.padEnd(widths[at] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
