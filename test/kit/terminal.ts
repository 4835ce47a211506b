import { spawn } from "node:child_process";
import { onTestFinished } from "vitest";

/** A program on a terminal of its own, which the test reads and types into. */
export interface Terminal {
  /** All that it showed so far. */
  readonly shown: string;
  /** Resolves once `text` was shown after what the last `seen` waited for. Rejects when the program ends first. */
  seen(text: string): Promise<void>;
  type(keys: string): void;
  readonly exit: Promise<number | null>;
}

export const ENTER = "\r";
export const DOWN = "\x1b[B";
export const CTRL_C = "\x03";
export const CTRL_D = "\x04";

/** Wide enough that no line is broken. */
const SIZE = "stty cols 200 rows 50";

/** util-linux's `script` makes the terminal. Killed with the test. */
export function openTerminal(command: readonly string[], { cwd }: { cwd: string }): Terminal {
  const line = command.map((word) => `'${word}'`).join(" ");
  const child = spawn("script", ["-qec", `${SIZE}; exec ${line}`, "/dev/null"], {
    cwd,
    env: { ...process.env, NO_COLOR: "1", FORCE_COLOR: undefined, TERM: "xterm", SHELL: "/bin/sh", CI: undefined },
    stdio: "pipe",
  });
  let shown = "";
  let from = 0;
  let over = false;
  let next = Promise.withResolvers<void>();
  const wake = (): void => {
    next.resolve();
    next = Promise.withResolvers<void>();
  };
  for (const output of [child.stdout, child.stderr])
    output.setEncoding("utf8").on("data", (text: string) => {
      shown += text;
      wake();
    });
  const exit = new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      over = true;
      resolve(code);
      wake();
    });
  });
  onTestFinished(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await exit.catch(() => undefined);
  });
  return {
    get shown() {
      return shown;
    },
    async seen(text) {
      for (;;) {
        const at = shown.indexOf(text, from);
        if (at !== -1) return void (from = at + text.length);
        if (over)
          throw new Error(`It ended without showing ${JSON.stringify(text)}: ${JSON.stringify(shown.slice(-500))}`);
        await next.promise;
      }
    },
    type: (keys) => void child.stdin.write(keys),
    exit,
  };
}
