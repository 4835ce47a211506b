const SHOW_CURSOR = "\x1b[?25h\n";

/** Ctrl-D, or a terminal that is gone, ends the input without a word to the prompt, which would wait for ever. */
export async function orLeft<T>(asking: Promise<T>): Promise<T | undefined> {
  const { promise: left, resolve } = Promise.withResolvers<undefined>();
  const leave = (): void => {
    process.stdout.write(SHOW_CURSOR);
    resolve(undefined);
  };
  process.once("beforeExit", leave);
  const answers = await Promise.race([asking, left]);
  process.off("beforeExit", leave);
  return answers;
}
