import type { MetricOptions, MultiaddrConnection, Stream } from "@libp2p/interface";
import type { Metrics } from "../observers/_published.ts";
import type { Host, HostMetrics } from "./_libp2p-host.ts";

/** Of one metric of libp2p, by the values of its one label; "" where it has none. */
type Values = Record<string, number | true | undefined>;

interface Meter {
  readonly kind: "counter" | "gauge";
  readonly help: string;
  readonly label: string | undefined;
  readonly values: Map<string, number>;
  /** What has to be asked for: each listener has its own. */
  readonly calculations: (() => unknown)[];
}

interface Options extends MetricOptions {
  readonly calculate?: () => unknown;
}

/**
 * What libp2p counts, kept in plain numbers until there is somebody to show it to, so that `metrics()` may come and go
 * while the host runs. Not `@libp2p/prometheus-metrics`: it keeps one table for all hosts of a process, so that a second
 * one, or the next one of a node, writes into the figures of the first; it empties prom-client's own registry, which is
 * the application's; and it calls gauges `_total`.
 */
export interface HostMeters {
  /** For the next host. */
  begin(): HostMetrics;
  /** Under libp2p's names, except that no gauge ends in `_total`. */
  show(service: Metrics | undefined, host: Host | undefined): void;
}

export function createHostMeters(): HostMeters {
  const meters = new Map<string, Meter>();
  let shown: Metrics | undefined;
  let published = new Set<string>();
  const tracked = new WeakSet<Stream | MultiaddrConnection>();
  const bytes = meter(
    "counter",
    "libp2p_data_transfer_bytes_total",
    { label: "protocol", help: 'Bytes of streams by protocol, and of connections as "global".' },
    true,
  );

  function meter(kind: Meter["kind"], name: string, { label, help, calculate }: Options, group: boolean): Meter {
    const known = kind === "gauge" ? name.replace(/_total$/, "") : name;
    const made: Meter = meters.get(known) ?? {
      kind,
      help: help ?? `libp2p's ${known}.`,
      label: group ? (label ?? "what") : undefined,
      values: new Map(),
      calculations: [],
    };
    meters.set(known, made);
    if (calculate) made.calculations.push(calculate);
    return made;
  }

  const single =
    (kind: Meter["kind"]) =>
    (name: string, options: Options = {}) =>
      facesOf(meter(kind, name, options, false)).single;
  const group =
    (kind: Meter["kind"]) =>
    (name: string, options: Options = {}) =>
      facesOf(meter(kind, name, options, true)).group;

  function track(stream: Stream | MultiaddrConnection, name: string): void {
    if (shown === undefined || tracked.has(stream)) return;
    tracked.add(stream);
    const sent = `${name} sent`;
    const received = `${name} received`;
    const send = stream.send.bind(stream);
    stream.send = (data) => (add(bytes.values, sent, data.byteLength), send(data));
    // A listener of `message` would make the stream let go of what its reader is not there for yet.
    const dispatch = stream.dispatchEvent.bind(stream);
    stream.dispatchEvent = (event: Event & { data?: { byteLength: number } }) => {
      if (event.type === "message") add(bytes.values, received, event.data?.byteLength ?? 0);
      return dispatch(event);
    };
  }

  const given = {
    trackMultiaddrConnection: (connection) => track(connection, "global"),
    trackProtocolStream: (stream) => track(stream, stream.protocol),
    registerMetric: single("gauge"),
    registerMetricGroup: group("gauge"),
    registerCounter: single("counter"),
    registerCounterGroup: group("counter"),
    // Nothing that runs here has any.
    registerHistogram: unseen,
    registerHistogramGroup: unseen,
    registerSummary: unseen,
    registerSummaryGroup: unseen,
    createTrace: () => undefined,
    traceFunction: <F>(_: string, run: F) => run,
  } as HostMetrics;

  function publish(service: Metrics, name: string, { kind, help, label, values, calculations }: Meter): void {
    const labels = label === undefined ? [] : [label];
    const of = (value: string): Record<string, string> => (label === undefined ? {} : { [label]: value });
    if (kind === "gauge")
      return void service.gauge(name, help, labels, (gauge) => {
        for (const [key, value] of values) gauge.set(of(key), value);
        for (const calculate of calculations)
          for (const [key, value] of entries(calculate())) gauge.set(of(key), value);
      });
    const told = new Map<string, number>();
    service.counter(name, help, labels, (counter) => {
      for (const [key, value] of values) {
        counter.add(of(key), value - (told.get(key) ?? 0));
        told.set(key, value);
      }
    });
  }

  return {
    begin() {
      for (const { kind, values, calculations } of meters.values()) {
        calculations.length = 0;
        if (kind === "gauge") values.clear();
      }
      return given;
    },
    show(service, host) {
      if (service !== shown) published = new Set();
      shown = service;
      if (service === undefined) return;
      for (const [name, each] of meters) {
        if (published.has(name)) continue;
        published.add(name);
        publish(service, name, each);
      }
      for (const { streams } of host?.getConnections() ?? [])
        for (const stream of streams) track(stream, stream.protocol);
    },
  };
}

function facesOf({ values }: Meter) {
  const all = (from: Values, how: (key: string, value: number) => void): void => {
    for (const [key, value] of Object.entries(from)) how(key, value === true ? 1 : (value ?? 0));
  };
  return {
    single: {
      update: (value: number) => void values.set("", value),
      increment: (by = 1) => add(values, "", by),
      decrement: (by = 1) => add(values, "", -by),
      reset: () => values.clear(),
      timer: () => () => undefined,
    },
    group: {
      update: (from: Values) => all(from, (key, value) => values.set(key, value)),
      increment: (from: Values) => all(from, (key, value) => add(values, key, value)),
      decrement: (from: Values) => all(from, (key, value) => add(values, key, -value)),
      reset: () => values.clear(),
      timer: () => () => undefined,
    },
  };
}

function add(values: Map<string, number>, key: string, by: number): void {
  values.set(key, (values.get(key) ?? 0) + by);
}

/** libp2p's own are numbers, or records of them, at once. */
function entries(value: unknown): [string, number][] {
  return typeof value === "object" && value !== null ? Object.entries(value) : [["", Number(value)]];
}

function unseen() {
  return { observe: () => undefined, reset: () => undefined, timer: () => () => undefined };
}
