import { AimoError } from "../error.ts";
import { checkApi } from "./doctor/api.ts";
import { checkStore } from "./doctor/connect.ts";
import { createCheckup, toLine } from "./doctor/checkup.ts";
import { checkAddress, checkJoin } from "./doctor/join.ts";
import { checkMachine } from "./doctor/local.ts";
import { checkProviders } from "./doctor/providers.ts";
import { ofConfig, ofRunning, type Subject } from "./doctor/subject.ts";
import type { ConfigOptions } from "./effective.ts";
import { findConfig } from "./load.ts";
import { explain } from "./place.ts";
import { printJson } from "./table.ts";

export interface DoctorOptions extends ConfigOptions {
  /** HTTP API of a node, instead of a config. */
  readonly url?: string;
  /** A node that runs here, instead of a config. */
  readonly node?: string;
  /** Multiaddrs to check beside those of the config. */
  readonly join?: readonly string[];
  readonly models?: readonly string[];
  readonly tokens: boolean;
}

/** Looks at everything that a node needs, and names the layer that fails. Throws when one does. */
export async function doctor({ url, node, join = [], models, tokens, ...about }: DoctorOptions): Promise<void> {
  for (const address of join) checkAddress(address);
  const checkup = createCheckup((finding) => void (about.json || process.stdout.write(toLine(finding))));
  const asked = { models, tokens };
  await checkup.check("node.js", process.version, () => undefined); // too old a one does not come here
  if (url !== undefined) await checkApi(checkup, url, asked);
  if (url === undefined || about.config !== undefined) {
    let subject: Subject = { listen: [], join: [], providers: [], serves: false, refusals: new Map() };
    const file = about.config ?? (node === undefined ? findConfig() : undefined);
    if (file !== undefined)
      await checkup.check("config", file, async () => {
        try {
          subject = (await ofConfig(about)).subject;
        } catch (error) {
          throw new Error(explain(error), { cause: error });
        }
      });
    else subject = (await ofRunning(node)) ?? subject;
    if (join.length === 0 && checkup.findings.length === 1 && subject.own === undefined)
      throw new AimoError(
        "CONFIG_INVALID",
        "There is nothing to check here: name a config with --config, an address of a node with --join, or its API with --url.",
      );
    await checkMachine(checkup, subject);
    if (subject.store !== undefined) await checkStore(checkup, subject.store);
    await checkProviders(checkup, subject.providers, asked);
    const { serves, refusals } = subject;
    for (const address of [...subject.join, ...join])
      await checkJoin(checkup, address, {
        ...asked,
        serves,
        refusals,
        ...(subject.encrypt && { encrypt: subject.encrypt }),
      });
  }
  const failed = checkup.findings.filter(({ ok }) => !ok);
  if (about.json) printJson({ ok: failed.length === 0, findings: checkup.findings });
  if (failed.length === 0) return;
  const [{ layer, about: what } = { layer: "", about: "" }] = failed;
  const more = failed.length > 1 ? `, the first of ${failed.length}` : "";
  throw new AimoError("INTERNAL", `The layer ${JSON.stringify(layer)} of ${what} fails${more}.`);
}
