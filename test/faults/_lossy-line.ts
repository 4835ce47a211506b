import { execFile, spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { promisify } from "node:util";

const exec = promisify(execFile);
const DEVICE = "aimo0";
/** Kept for measurements between networks (RFC 2544). */
const ADDRESSES = ["198.18.0.1", "198.18.0.2"] as const;

/** One side of a line: a network of its own, in which processes run. */
export interface LineEnd {
  readonly address: string;
  /** What a command is to begin with to run there. */
  readonly within: readonly string[];
  /** Packets that the other side sent and that were lost. */
  lost(): Promise<number>;
}

export interface LossyLine extends Disposable {
  readonly ends: readonly [LineEnd, LineEnd];
}

/**
 * Two networks joined by a line that loses this share of all packets, in both directions; needs root, `ip` and
 * `iptables`. The networks have no names: they live as long as a process in each, which lives as long as this one,
 * so nothing is left behind however it ends. Returns why it is not possible.
 */
export async function lossyLine(loss: number): Promise<LossyLine | string> {
  if (process.platform !== "linux" || process.getuid?.() !== 0) return "only root on Linux can make networks";
  const keepers: ChildProcess[] = [];
  const end = (): void => keepers.forEach((keeper) => keeper.kill("SIGKILL"));
  try {
    for (const _ of ADDRESSES) keepers.push(await keep());
    const [near, far] = keepers.map(({ pid }) => pid);
    await exec("nsenter", [
      ...into(near),
      "ip",
      "link",
      "add",
      DEVICE,
      "type",
      "veth",
      "peer",
      DEVICE,
      "netns",
      `${far}`,
    ]);
    const ends = await Promise.all([lineEnd(near, ADDRESSES[0], loss), lineEnd(far, ADDRESSES[1], loss)]);
    return { ends, [Symbol.dispose]: end };
  } catch (error) {
    end();
    const { stderr, message } = error as Error & { stderr?: string };
    return (stderr || message).trim().split("\n")[0] as string;
  }
}

/** A process in a new network, until its input ends. */
async function keep(): Promise<ChildProcess> {
  const keeper = spawn("unshare", ["--net", "sh", "-c", "echo; exec cat >/dev/null"], { stdio: "pipe" });
  let why = "";
  keeper.stderr.setEncoding("utf8").on("data", (text: string) => void (why += text));
  const gone = once(keeper, "close").then(() => {
    throw new Error(why || "unshare ended");
  });
  await Promise.race([once(keeper.stdout, "data"), gone]);
  gone.catch(() => undefined);
  return keeper;
}

function into(pid: number | undefined): string[] {
  return [`--net=/proc/${pid}/ns/net`];
}

async function lineEnd(pid: number | undefined, address: string, loss: number): Promise<LineEnd> {
  const run = (...command: string[]): Promise<{ stdout: string }> => exec("nsenter", [...into(pid), ...command]);
  await run("ip", "link", "set", "lo", "up");
  await run("ip", "address", "add", `${address}/24`, "dev", DEVICE);
  await run("ip", "link", "set", DEVICE, "up");
  const random = ["-m", "statistic", "--mode", "random", "--probability", String(loss)];
  await run("iptables", "-A", "INPUT", "-i", DEVICE, ...random, "-j", "DROP");
  return {
    address,
    within: ["nsenter", ...into(pid)],
    async lost() {
      const { stdout } = await run("iptables", "-L", "INPUT", "-v", "-x", "-n");
      return Number(/^\s*(\d+)\s+\d+\s+DROP/m.exec(stdout)?.[1] ?? 0);
    },
  };
}
