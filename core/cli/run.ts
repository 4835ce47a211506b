import { homedir } from "node:os";
import { join } from "node:path";
import { isatty } from "node:tty";
import { admin } from "../../plugins/frontends/admin.ts";
import { resolveConfig, type NodeConfig } from "../config.ts";
import { whereOf } from "../error.ts";
import { createNode, type AimoNode } from "../node.ts";
import { flatten, loadPlugins, type PluginList } from "../plugin.ts";
import { adviseOn } from "./advice.ts";
import { events, readyOf, type Ready } from "./events.ts";
import { explain } from "./place.ts";

export interface RunOptions {
  readonly json?: boolean | undefined;
  readonly disable?: readonly string[];
}

export interface Source {
  /** Reads the config again; without it there is nothing to reload. */
  readonly again?: () => Promise<NodeConfig>;
  /** A config with another data dir gets a new node instead of a refusal. */
  readonly renew?: boolean;
}

export interface Running {
  /** Takes what has changed in the config; tells how it went, and never rejects. */
  reload(): Promise<void>;
}

/** Ends a process whose sockets do not let go. ms */
const EXIT_WITHIN = 2_000;

export function defaultDataDir(kind: string): string {
  return join(homedir(), ".aimo", kind);
}

/**
 * Starts a node, tells about it on stdout, and closes it on SIGTERM or SIGINT; a second one exits at once. SIGHUP reads
 * the config again.
 */
export async function run(
  config: NodeConfig,
  { json = false, disable = [] }: RunOptions,
  banner: (ready: Ready, node: AimoNode) => string,
  { again, renew = false }: Source = {},
): Promise<Running> {
  const pending: string[] = [];
  let ready = false;
  const emit = (event: object): void => {
    if (!json) return;
    const line = `${JSON.stringify(event)}\n`;
    if (ready) process.stdout.write(line);
    else pending.push(line); // `ready` is the first line
  };
  const watching = events(emit);
  const complete = (own: NodeConfig): NodeConfig => ({
    ...own,
    // What is no list must reach the check of the config as it is.
    plugins: Array.isArray(own.plugins) ? [json && watching, own.plugins, asked(own.plugins) && admin()] : own.plugins,
    disable: [...(own.disable ?? []), ...disable, ...(process.env["AIMO_DISABLE"] ?? "").split(",").filter(Boolean)],
  });

  let node: AimoNode | undefined;
  let dataDir: string | undefined;
  let advised: readonly string[] = [];
  let stopping = false;

  async function start(next: NodeConfig): Promise<void> {
    ready = false;
    node = await createNode(next);
    dataDir = next.dataDir;
    const facts = readyOf(node);
    process.stdout.write(json ? `${JSON.stringify(facts)}\n` : banner(facts, node));
    ready = true;
    for (const line of pending.splice(0)) process.stdout.write(line);
    advise(node, next);
  }

  function advise(about: AimoNode, { plugins, disable: off, relay = false }: NodeConfig): void {
    const sentences = adviseOn(loadPlugins(plugins, off), { relay });
    for (const message of sentences.filter((sentence) => !advised.includes(sentence))) {
      about.log("warn", message);
      emit({ event: "advice", message });
    }
    advised = sentences;
  }

  async function take(next: NodeConfig): Promise<void> {
    if (node === undefined || (renew && next.dataDir !== dataDir)) {
      loadPlugins(next.plugins, resolveConfig(next).disable); // what it refuses costs no node
      const old = node;
      node = undefined;
      await old?.close();
      return start(next);
    }
    const changed = await node.reload(next);
    if (!json) process.stdout.write(`Reloaded: ${changed.join("; ") || "nothing has changed"}.\n`);
    emit({ event: "reload", changed });
    advise(node, next);
  }

  async function reloadOnce(): Promise<void> {
    if (stopping) return;
    try {
      if (again === undefined)
        throw new Error("There is nothing to reload: this node has no config file. `aimo start` runs one that has.");
      await take(complete(await again()));
    } catch (error) {
      const message = explain(error);
      console.error(`aimo: ${message}`);
      emit({ event: "reload:failed", message });
    }
  }

  let last = Promise.resolve();
  let waiting: Promise<void> | undefined;
  function reload(): Promise<void> {
    // One that has not begun yet sees all that has changed until then.
    waiting ??= last.then(() => {
      waiting = undefined;
      return (last = reloadOnce());
    });
    return waiting;
  }

  function stop(): void {
    if (node === undefined) process.exit(); // nothing is open yet
    if (stopping) process.exit(1);
    stopping = true;
    const closed = node.close();
    emit({ event: "closing" }); // the doors are closed
    void closed.finally(() => {
      emit({ event: "closed" });
      process.exitCode = 0;
      setTimeout(() => process.exit(), EXIT_WITHIN).unref();
    });
  }

  const onTerminal = isatty(1);
  // A terminal that was closed says so by SIGHUP, and what is written to it in between must not end us first.
  for (const output of [process.stdout, process.stderr])
    output.on("error", (error: NodeJS.ErrnoException) => {
      if (error.code !== "EIO") throw error;
    });
  process.on("SIGHUP", () => {
    if (!onTerminal || isatty(1)) return void reload();
    if (!stopping) stop();
  });
  process.on("SIGTERM", stop).on("SIGINT", stop);
  // A parent with a channel to us (`aimo demo`) does not leave us behind.
  process.once("disconnect", stop).channel?.unref();
  // A peer must not end the process through a callback deep in a library; anything of our own does.
  process.on("uncaughtException", (error) => {
    const { stack = "", message = "" } = (error as Error | undefined) ?? {};
    // Not its message: that of a plugin's or a parser's error may quote a prompt or a key.
    const frames = stack
      .replace(message, () => "")
      .split("\n")
      .slice(1);
    console.error([`aimo: uncaught ${whereOf(error)}`, ...frames].join("\n"));
    if (!/node_modules.(@libp2p|libp2p|@chainsafe)/.test(stack)) process.exit(1);
  });
  await (last = start(complete(config)));
  return { reload };
}

/** What the commands ask: unless the config has its own. Windows has no such sockets. */
function asked(plugins: PluginList): boolean {
  return process.platform !== "win32" && !flatten(plugins).some(({ name }) => name === "frontend-admin");
}
