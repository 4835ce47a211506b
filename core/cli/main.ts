import { Command, CommanderError, InvalidArgumentError, Option } from "commander";
import { AimoError } from "../error.ts";
import { ownPackage } from "../package.ts";
import { registerCommands, registerCompletion } from "./commands.ts";
import type { KeygenFlags } from "./keygen.ts";
import { explain as sentenceOf } from "./place.ts";

interface Common {
  json?: boolean;
  disable?: string[];
}

const collect = (value: string, before: string[] = []): string[] => [...before, ...value.split(",").filter(Boolean)];
/** Not commander's defaults: its help would show them as `[]`. */
const NONE = { disable: [], models: [], listen: [], join: [], invite: [] };

function toPort(value: string): number {
  const port = Number(value);
  if (!Number.isInteger(port) || port < 0 || port > 65_535)
    throw new InvalidArgumentError("a port is a number from 0 to 65535.");
  return port;
}

function toTag(value: string): string {
  if (!/^[A-Za-z0-9_]+$/.test(value)) throw new InvalidArgumentError("a tag consists of letters and digits.");
  return value;
}

function toDays(value: string): number {
  const days = Number(value);
  if (!Number.isInteger(days) || days < 1 || days > 36_500)
    throw new InvalidArgumentError("it must be a number of days, from 1 to 36500.");
  return days;
}

function toLimit(value: string): bigint {
  if (!/^\d{1,18}$/.test(value)) throw new InvalidArgumentError("it must be a number of calls; 0 = no limit.");
  return BigInt(value);
}

/** All commands; nothing has run yet. */
export function build(): Command {
  const program = new Command("aimo")
    .description("A node of a decentralized AI model router.")
    .version(ownPackage().version)
    .showHelpAfterError("(aimo --help lists the commands)")
    .exitOverride();
  const common = (command: Command): Command =>
    command
      .option("--json", "events as JSON lines on stdout")
      .option("--disable <names>", "plugins to leave out, comma separated", collect);

  common(program.command("start").description("Start the node that a config file describes."))
    .option("-c, --config <file>", "default: aimo.config.ts in this folder")
    .option("--env <name>", "environment: `$name` in the config, `.env.name` (default: NODE_ENV, else production)")
    .addHelpText("after", "\nSIGHUP reads the config again; calls that run go on.")
    .action(async (options: Common & { config?: string; env?: string }) => (await import("./start.ts")).start(options));

  common(program.command("dev").description("The same while you work on it: takes what changes in the config at once."))
    .option("-c, --config <file>", "default: aimo.config.ts in this folder; without one, a demo until there is one")
    .option("--env <name>", "environment, as for start (default: NODE_ENV, else development)")
    .option("--port <number>", "port of the demo's API; 0 picks a free one", toPort, 8_000)
    .action(async (options: Common & { config?: string; env?: string; port: number }) =>
      (await import("./dev.ts")).dev(options),
    );

  common(
    program
      .command("gateway")
      .description("Start a gateway: an OpenAI-compatible API in front, providers over libp2p behind."),
  )
    .option("--host <address>", "address of the API", "127.0.0.1")
    .option("--port <number>", "port of the API; 0 picks a free one", toPort, 8_000)
    .option("--listen <multiaddr>", "where peers may dial in (default: /ip4/127.0.0.1/tcp/4001)", collect)
    .option("--join <multiaddr>", "nodes to stay connected to", collect)
    .option("--data-dir <folder>", "where the node's key lies (default: ~/.aimo/gateway)")
    .option("--invite <token>", "from `aimo invite` of a node that it joins; may be given several times", collect)
    .option("--invited", "take models only of nodes with an invitation of this one")
    .addHelpText("after", "\nAIMO_API_KEY, when set, is required from clients as a Bearer key.")
    .action(
      async (
        options: Common & {
          host: string;
          port: number;
          listen?: string[];
          join?: string[];
          dataDir?: string;
          invite?: string[];
          invited?: boolean;
        },
      ) => (await import("./gateway.ts")).gateway({ ...NONE, ...options }),
    );

  common(
    program
      .command("provider")
      .description("Serve an OpenAI-compatible upstream, or a model of its own, to the gateways it joins."),
  )
    .option("--upstream <url>", "such as http://127.0.0.1:11434/v1 (default: an embedded demo that is no model)")
    .option("--gguf <file>", "in place of an upstream: a model that this node runs itself; needs node-llama-cpp")
    .option("--models <names>", "comma separated (default: the upstream's own list, the file's name)", collect)
    .addOption(
      new Option("-c, --config <file>", "in place of all these: a proxy.toml of the forerunner").conflicts([
        "upstream",
        "gguf",
        "models",
      ]),
    )
    .option("--join <multiaddr>", "gateways to serve", collect)
    .option("--listen <multiaddr>", "where peers may dial in (default: nowhere, it only dials out)", collect)
    .option("--data-dir <folder>", "where the node's key lies (default: ~/.aimo/provider)")
    .option("--invite <token>", "from `aimo invite` of a gateway; may be given several times", collect)
    .addHelpText("after", "\nAIMO_UPSTREAM_KEY, when set, is sent to the upstream as a Bearer key.")
    .action(
      async (
        options: Common & {
          upstream?: string;
          config?: string;
          gguf?: string;
          models?: string[];
          join?: string[];
          listen?: string[];
          dataDir?: string;
          invite?: string[];
        },
      ) => (await import("./provider.ts")).provider({ ...NONE, ...options }),
    );

  program
    .command("init")
    .description("Make a project of your own in a new folder: a node, or a plugin with its test.")
    .argument("[folder]", "default: aimo-node")
    .option("--template <name>", "gateway, provider, single, plugin-router or plugin-transport (default: gateway)")
    .option("--yes", "ask nothing; without a terminal nothing is asked anyway")
    .option("--json", "one JSON line; asks nothing")
    .action(async (folder: string | undefined, options: { template?: string; yes?: boolean; json?: boolean }) =>
      (await import("./init.ts")).init(folder, options),
    );

  program
    .command("keygen")
    .description(
      "Make a node's key, or show the peer id of the one that is there. With one of -t -v -s -u --id: make a key that a Solana wallet signs, for nodes that have walletKeys().",
    )
    .option("--data-dir <folder>", "default: ~/.aimo/gateway")
    .option("--json", "one JSON line")
    .option("-t, --tag <name>", "of aimo-sk-<tag>-… (default: dev)", toTag)
    .option("-v, --valid-for <days>", "default: 90", toDays)
    .option("-s, --scopes <names>", "comma separated (default: completion_model, the one that there is)", collect)
    .option("-u, --usage-limit <calls>", "0 = none (default: 0)", toLimit)
    .option("--id <file>", "of the wallet, as solana-keygen writes it (default: ~/.config/solana/id.json)")
    .action(async (options: KeygenFlags) => (await import("./keygen.ts")).keygen(options));

  program
    .command("verify")
    .description("Check receipts offline: who signed them, and that they say what was signed.")
    .argument("[file]", "what GET /v1/receipts/:id answered, or one receipt of it (default: stdin)")
    .option("--request <file>", "check that they are for this request body")
    .option("--reply <file>", "check that this reply body is what the last of them is for")
    .option("--json", "one JSON line a receipt")
    .addHelpText("after", "\nExit codes: 0 all are right, 1 one is wrong, 2 wrong usage.")
    .action(async (file: string | undefined, options: { request?: string; reply?: string; json?: boolean }) =>
      (await import("./verify.ts")).verify(file, options),
    );

  program
    .command("demo")
    .description("A gateway and a provider over real libp2p on this machine, and one curl line to try them.")
    .option("--port <number>", "port of the API; 0 picks a free one", toPort, 8_000)
    .option("--json", "events as JSON lines on stdout")
    .action(async (options: { port: number; json?: boolean }) => (await import("./demo.ts")).demo(options));
  registerCommands(program);
  return program;
}

/** Runs a command. Exit codes: 0 done, 1 failed, 2 wrong usage or config. */
export async function main(argv: readonly string[]): Promise<void> {
  try {
    const program = build();
    await registerCompletion(program, argv[2]);
    await program.parseAsync(argv as string[]);
  } catch (error) {
    process.exitCode = explain(error);
  }
}

/** One sentence on stderr; the stack only with DEBUG=aimo. */
function explain(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
  console.error(`aimo: ${sentenceOf(error)}`);
  if (process.env["DEBUG"]?.includes("aimo")) console.error(error);
  return AimoError.is(error) && error.code === "CONFIG_INVALID" ? 2 : 1;
}
