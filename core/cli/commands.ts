import { InvalidArgumentError, Option, type Command } from "commander";
import type { Asked } from "./ask.ts";
import type { BenchOptions } from "./bench.ts";
import type { ChatOptions } from "./chat.ts";
import type { DoctorOptions } from "./doctor.ts";
import type { ConfigOptions } from "./effective.ts";
import type { InviteFlags } from "./invite.ts";
import type { CreateOptions } from "./keys.ts";
import type { RouteOptions } from "./route.ts";
import type { UsageOptions } from "./usage.ts";

const collect = (value: string, before: string[] = []): string[] => [...before, ...value.split(",").filter(Boolean)];
/** Its commas belong to it. */
const each = (value: string, before: string[] = []): string[] => [...before, value];

function toCount(value: string): number {
  const count = Number(value);
  if (!Number.isInteger(count) || count < 1) throw new InvalidArgumentError("it must be a whole number above 0.");
  return count;
}

const UNITS: Record<string, number> = { m: 60_000, h: 3_600_000, d: 86_400_000 };

/** 0 for what is no time. */
function toMs(value: string): number {
  const [, count = "0", unit = ""] = /^(\d{1,4})([mhd])$/.exec(value) ?? [];
  return Number(count) * (UNITS[unit] ?? 0);
}

function toDuration(value: string): number {
  const ms = toMs(value);
  if (ms === 0) throw new InvalidArgumentError("it must be a time such as 30m, 12h or 30d.");
  return ms;
}

function toSize(value: string): number {
  return value === "0" ? 0 : toCount(value);
}

function toRate(value: string): number {
  const rate = Number(value);
  if (!Number.isFinite(rate) || rate <= 0) throw new InvalidArgumentError("it must be a number above 0.");
  return rate;
}

function toScopes(value: string, before: string[] = []): string[] {
  if (!["call", "read", "admin"].includes(value)) throw new InvalidArgumentError("a scope is call, read or admin.");
  return [...before, value];
}

/** Unix ms. */
function toMoment(value: string): number {
  const date = /^\d{4}-\d{2}-\d{2}/.test(value) ? Date.parse(value) : Date.now() + (toMs(value) || Number.NaN);
  if (Number.isNaN(date))
    throw new InvalidArgumentError("it must be 30m, 12h, 30d or the like, or a day such as 2030-12-31.");
  return date;
}

/** `10`, `10/day`, `10/month`. */
function toBudget(value: string): NonNullable<CreateOptions["budget"]> {
  const [, usd = "", per = "ever"] = /^(\d+(?:\.\d+)?)(?:\/(day|month|ever))?$/.exec(value) ?? [];
  if (!(Number(usd) > 0)) throw new InvalidArgumentError("it must look like 10/month, 0.5/day or 100.");
  return { usd: Number(usd), per: per as "ever" };
}

/** Commands of daily use: about a config, or about a node that runs. Each is imported when it is called. */
export function registerCommands(program: Command): void {
  const json = (command: Command): Command => command.option("--json", "one JSON line");
  const about = (command: Command): Command =>
    json(command)
      .option("-c, --config <file>", "default: aimo.config.ts in this folder")
      .option("--env <name>", "environment whose $name layers count (default: NODE_ENV, else production)")
      .option("--disable <names>", "plugins to leave out, comma separated", collect);
  const node = (command: Command): Command =>
    command.option("--node <where>", "data dir, socket or peer id of a node here (default: the one that runs)");
  const asks = (command: Command): Command =>
    node(json(command)).option("--url <url>", "HTTP API of a node elsewhere; its key in AIMO_API_KEY");

  about(
    program.command("check").description("Check a config file: what `aimo start` would refuse, without starting."),
  ).action(async (options: ConfigOptions) => (await import("./check.ts")).check(options));

  about(
    program
      .command("config")
      .description("Show a config with all defaults, secrets masked, and where each value comes from."),
  ).action(async (options: ConfigOptions) => (await import("./config.ts")).config(options));

  node(
    about(program.command("plugins").description("List plugins: of a config, or of the node that runs here.")),
  ).action(async (options: ConfigOptions & Asked) => (await import("./plugins.ts")).plugins(options));

  asks(program.command("peers").description("List the peers of a running node, with links and load.")).action(
    async (options: Asked) => (await import("./peers.ts")).peers(options),
  );

  asks(program.command("models").description("List what a running node can call: each model at each provider."))
    .argument("[name]", "only this model")
    .action(async (name: string | undefined, options: Asked) => (await import("./models.ts")).models(name, options));

  node(json(program.command("route").description("Ask a running node where it would send a call now, and why.")))
    .requiredOption("--model <name>", "the model of the call")
    .option("--type <name>", "dialect and operation", "openai.chat")
    .option("--size <bytes>", "of the request's body", toSize, 0)
    .option("--provider <id>", "pinned: a peer id, or a provider of the node itself")
    .option("--header <name:value>", "of the request; may be given several times", each)
    .option("--explain", "what each router did, with its figures")
    .action(async (options: RouteOptions) => (await import("./route.ts")).route(options));

  keyCommands(
    program.command("keys").description("Make, list and revoke the keys of clients, on a running node."),
    (command) => node(json(command)),
  );

  asks(
    program
      .command("chat")
      .description("Talk to a model: a conversation on a terminal, one answer for a prompt or stdin."),
  )
    .argument("[prompt]", "asked once")
    .option("--model <name>", "default: the one that there is")
    .option("--system <text>", "what the model is told first")
    .action(async (prompt: string | undefined, options: ChatOptions) =>
      (await import("./chat.ts")).chat(prompt, options),
    );

  json(program.command("bench").description("Call a node as its clients do, and measure how fast it answers."))
    .argument("[url]", "its HTTP API (default: the node that runs here); its key in AIMO_API_KEY")
    .option("--model <name>", "default: the one that there is")
    .option("--calls <number>", "how many (default: 100, without end with --duration)", toCount)
    .option("--concurrency <number>", "open at a time (default: 10, as many as it takes with --rate)", toCount)
    .option("--rate <number>", "calls that begin in a second, whether or not others have ended", toRate)
    .option("--duration <seconds>", "no call begins later", toRate)
    .option("--prompt <text>", "what is asked", "Count to ten.")
    .option("--max-tokens <number>", "asked of the model", toCount)
    .addHelpText("after", "\nExit codes: 0 some call came to its end, 1 none did, 2 wrong usage.")
    .action(async (url: string | undefined, options: BenchOptions) => (await import("./bench.ts")).bench(url, options));

  node(json(program.command("invite").description("Let another node provide models here or call: a token for it.")))
    .option("--provide", "it may offer models; the default")
    .option("--call", "it may call")
    .option("--for <peer>", "its peer id, where it is known (default: whichever node comes with the token first)")
    .option("--expires <time>", "how long it is let in: 30m, 12h, 30d (default: 30d)", toDuration)
    .option("--label <text>", "what is seen of it in the list")
    .option("--data-dir <folder>", "of this node (default: of the one that runs, else ~/.aimo/gateway)")
    .option("--list", "in place of all these: who was let in, by the node that runs")
    .option("--revoke <id>", "in place of all these: let in nobody by this one any more, an id or the token")
    .addHelpText("after", "\nIt counts at nodes that have trust(). The other node passes it with --invite.")
    .action(async (options: Partial<InviteFlags>) =>
      (await import("./invite.ts")).invite({ expires: 30 * 86_400_000, ...options }),
    );
  asks(
    program
      .command("usage")
      .description("Show what was used and what it cost, as the ledger of a running node has it."),
  )
    .addOption(
      new Option("--by <what>", "model, client, provider or day")
        .choices(["model", "client", "provider", "day"])
        .default("model"),
    )
    .option("--since <time>", "a date, or how long ago: 30m, 24h, 7d, 4w", "7d")
    .option("--until <time>", "the same (default: now)")
    .option("--client <name>", "of this client alone")
    .addOption(new Option("--csv", "for a spreadsheet").conflicts(["json", "export", "compare"]))
    .addOption(new Option("--export", "each attempt as a JSON line, with its receipt").conflicts(["json", "compare"]))
    .option("--compare <file>", "what another node has exported: show where the two ledgers do not agree")
    .addHelpText("after", "\nExit codes: 0 done, 1 failed, or the ledgers do not agree, 2 wrong usage.")
    .action(async (options: UsageOptions) => (await import("./usage.ts")).usage(options));

  node(
    about(program.command("doctor").description("Look at all that a node needs, layer by layer, and say what fails.")),
  )
    .option("--url <url>", "check the HTTP API of a node instead; its key in AIMO_API_KEY")
    .option("--join <multiaddr>", "addresses of nodes to dial, beside those of the config", collect)
    .option("--models <names>", "models to ask for a token (default: the first three of each node)", collect)
    .option("--no-tokens", "ask no model")
    .addHelpText("after", "\nExit codes: 0 all is well, 1 something fails, 2 wrong usage.")
    .action(async (options: DoctorOptions) => (await import("./doctor.ts")).doctor(options));

  program
    .command("completion")
    .description("Print the script that completes commands, options and plugin names in a shell.")
    .argument("<shell>", "bash, zsh, fish or powershell");
}

function keyCommands(keys: Command, asking: (command: Command) => Command): void {
  asking(keys.command("create").description("Make a key. It is written to stdout, this once."))
    .requiredOption("--name <name>", "whose it is, or what for")
    .option(
      "--scope <name>",
      "call, read or admin; may be given several times (default: call, which reads what is its own)",
      toScopes,
    )
    .option("--expires <when>", "after 30m, 12h, 30d, or on a day such as 2030-12-31 (default: never)", toMoment)
    .option("--model <name>", "that it may call, * for any characters; may be given several times (default: all)", each)
    .option("--requests <number>", "a minute", toCount)
    .option("--tokens <number>", "a minute", toCount)
    .option("--calls <number>", "at a time", toCount)
    .option("--budget <usd>", "in US$: 10/month, 0.5/day, 100", toBudget)
    .addOption(new Option("--priority <name>", "where not all can be served").choices(["high", "normal", "low"]))
    .action(async (options: CreateOptions) => (await import("./keys.ts")).create(options));

  asking(keys.command("list").description("List the keys, without the keys themselves.")).action(
    async (options: Asked) => (await import("./keys.ts")).list(options),
  );

  asking(keys.command("rotate").description("Make another key in the place of one: id, limits and usage stay."))
    .argument("<id>", "as `aimo keys list` shows it")
    .option("--grace <time>", "how long the key before works on: 30m, 12h, 30d (default: not at all)", toDuration)
    .action(async (id: string, options: Asked & { grace?: number }) => (await import("./keys.ts")).rotate(id, options));

  asking(keys.command("revoke").description("End a key, for good. Calls that run go on."))
    .argument("<id>", "as `aimo keys list` shows it")
    .option("--yes", "do not ask")
    .action(async (id: string, options: Asked & { yes?: boolean }) => (await import("./keys.ts")).revoke(id, options));
}

/** Last, since it looks at all commands; loaded when it is what was called. */
export async function registerCompletion(program: Command, called: string | undefined): Promise<void> {
  if (called !== "completion" && called !== "complete") return;
  const { addCompletion } = await import("./completion.ts");
  const all = program.commands as Command[];
  all.splice(
    all.findIndex((command) => command.name() === "completion"),
    1,
  ); // it brings its own
  addCompletion(program);
}
