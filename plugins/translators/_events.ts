/** Reads what the events of a stream say (their `data`) out of bytes that may be cut anywhere. `last`: no more come. */
export function createReader(): (bytes: Uint8Array, last?: boolean) => string[] {
  const decoder = new TextDecoder();
  let rest = "";
  let lines: string[] = []; // of the data of an event that goes on
  return (bytes, last = false) => {
    const found: string[] = [];
    const text = rest + decoder.decode(bytes, { stream: !last }) + (last ? "\n\n" : "");
    // A CR at the end may be half of a CRLF.
    const whole = text.split(/\r\n|\n|\r(?!$)/);
    rest = whole.pop() as string;
    for (const line of whole) {
      if (line.startsWith("data:")) lines.push(line.slice(line.startsWith("data: ") ? 6 : 5));
      if (line !== "" || lines.length === 0) continue;
      found.push(lines.join("\n"));
      lines = [];
    }
    return found;
  };
}

/** An event of Anthropic's: they are named after their type. */
export function named(event: { readonly type: string; readonly [field: string]: unknown }): string {
  return `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`;
}

/** An event of OpenAI's. */
export function unnamed(chunk: object): string {
  return `data: ${JSON.stringify(chunk)}\n\n`;
}
