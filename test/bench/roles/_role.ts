import type { Session } from "node:inspector";

/** What a process of the bench does when its parent asks; arguments and results are plain JSON. */
export type Commands = Record<string, (args: never) => unknown>;

export interface Ask {
  readonly id: number;
  readonly command: string;
  readonly args: unknown;
}
export interface Told {
  readonly id: number;
  readonly result?: unknown;
  readonly error?: string;
}

/** Answers the parent's commands until it goes away. */
export function serve(commands: Commands): void {
  const all: Commands = { ...commands, usage, profileStart, profileStop };
  process.on("disconnect", () => process.exit());
  process.on("SIGINT", () => undefined); // the parent decides
  process.on("message", async ({ id, command, args }: Ask) => {
    const told = await run(all, command, args);
    process.send?.({ id, ...told } satisfies Told);
  });
  process.send?.({ id: 0 } satisfies Told);
}

async function run(commands: Commands, command: string, args: unknown): Promise<Omit<Told, "id">> {
  try {
    return { result: await commands[command]?.(args as never) };
  } catch (error) {
    return { error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}

export interface Usage {
  /** CPU time of this process so far, user and system. us */
  readonly cpu: number;
  /** bytes */
  readonly rss: number;
}

function usage(): Usage {
  const { user, system } = process.cpuUsage();
  return { cpu: user + system, rss: process.memoryUsage.rss() };
}

let session: Session | undefined;

/** The profiler runs for the measured window only: not for start and warm-up. */
async function profileStart(): Promise<void> {
  const inspector = await import("node:inspector");
  session = new inspector.Session();
  session.connect();
  await post("Profiler.enable");
  await post("Profiler.setSamplingInterval", { interval: 200 });
  await post("Profiler.start");
}

async function profileStop({ file }: { file: string }): Promise<void> {
  const { profile } = (await post("Profiler.stop")) as { profile: object };
  session?.disconnect();
  const { writeFileSync } = await import("node:fs");
  writeFileSync(file, JSON.stringify(profile));
}

function post(method: string, params?: object): Promise<unknown> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  session?.post(method, params, (error: Error | null, result: unknown) => (error ? reject(error) : resolve(result)));
  return promise;
}
