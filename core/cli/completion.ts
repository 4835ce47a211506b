import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import tab from "@bomb.sh/tab/commander";
import type { Command } from "commander";
import { ownPackage } from "../package.ts";
import { BUILT_IN } from "../plugin.ts";

/** What an option of this name may be followed by. */
const VALUES: Record<string, () => readonly string[]> = {
  disable: () => BUILT_IN,
  template: templates,
  type: () => ["openai.chat", "http"],
  env: () => ["production", "development", "test"],
};

/** Adds `completion`, which prints a shell's script, and `complete`, which that script calls. */
export function addCompletion(program: Command): void {
  const root = tab(program, { completionCommandName: "completion" });
  for (const command of root.commands.values())
    for (const [name, option] of command.options) {
      const values = VALUES[name];
      if (values) option.handler = (complete) => values().forEach((value) => complete(value, ""));
    }
}

function templates(): string[] {
  const folder = join(ownPackage().root, "templates");
  return existsSync(folder) ? readdirSync(folder).filter((name) => !name.startsWith("_")) : [];
}
