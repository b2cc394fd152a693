/**
 * Which topic filters no message has matched. A filter with a typing error, or one that the broker's permissions make silent without
 * refusing it (Mosquitto's `acl_file`), is subscribed like any other and brings nothing.
 *
 * Limits: a message costs a walk through its levels while there are such filters, and nothing when there are none.
 */
interface Level {
  readonly children: Map<string, Level>;
  /** The filter that ends here. */
  filter?: string;
}

export class SilentFilters {
  #filters: readonly string[];
  #root: Level;

  /** Shared subscriptions are left out: what they do not bring, others of their group may have. */
  constructor(filters: readonly string[]) {
    this.#filters = filters.filter((filter) => !filter.startsWith('$share/'));
    this.#root = treeOf(this.#filters);
  }

  get filters(): readonly string[] {
    return this.#filters;
  }

  /** A message came with this topic. */
  heard(topic: string): void {
    if (this.#filters.length === 0) return;
    const matching = new Set<string>();
    // Wildcards do not match a first level that begins with $ (MQTT 5.0, section 4.7.2).
    collect(this.#root, topic.split('/'), 0, !topic.startsWith('$'), matching);
    if (matching.size === 0) return;
    this.#filters = this.#filters.filter((filter) => !matching.has(filter));
    this.#root = treeOf(this.#filters);
  }
}

function treeOf(filters: readonly string[]): Level {
  const root: Level = { children: new Map() };
  for (const filter of filters) {
    let level = root;
    for (const name of filter.split('/')) {
      const next = level.children.get(name) ?? { children: new Map<string, Level>() };
      level.children.set(name, next);
      level = next;
    }
    level.filter = filter;
  }
  return root;
}

function collect(level: Level, names: readonly string[], at: number, wildcards: boolean, found: Set<string>): void {
  // `a/#` matches `a`, too.
  const rest = wildcards || at > 0 ? level.children.get('#')?.filter : undefined;
  if (rest !== undefined) found.add(rest);
  const name = names[at];
  if (name === undefined) {
    if (level.filter !== undefined) found.add(level.filter);
    return;
  }
  const exact = level.children.get(name);
  if (exact !== undefined) collect(exact, names, at + 1, wildcards, found);
  const any = wildcards || at > 0 ? level.children.get('+') : undefined;
  if (any !== undefined) collect(any, names, at + 1, wildcards, found);
}
