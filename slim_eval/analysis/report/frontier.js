"use strict";
// The Pareto frontier in two objectives: places of the points that no other one beats, from the lowest x to the highest.
// A point is beaten by one that is at least as good in both and better in one; equal points stand on it together.
function frontierOf(places, x, y, moreX, moreY) {
  const signX = moreX ? -1 : 1;
  const signY = moreY ? -1 : 1;
  const order = [...places].sort((a, b) => signX * (x[a] - x[b]) || signY * (y[a] - y[b]));
  const found = [];
  let best = Infinity;
  for (const place of order) {
    const last = found[found.length - 1];
    const equal = last !== undefined && x[last] === x[place] && y[last] === y[place];
    if (signY * y[place] < best || equal) {
      found.push(place);
      best = signY * y[place];
    }
  }
  return found.sort((a, b) => x[a] - x[b]);
}

// Places by the setting in which both numbers were measured: only within one may they be compared.
function settingsOf(data, places, axes) {
  const kinds = axes.flatMap((axis) => (axis.settings === "tasks" ? data.tasks : [axis.settings]));
  const known = [...new Set(kinds)].filter((kind) => kind in data.settings);
  const groups = new Map();
  for (const place of places) {
    const key = known.map((kind) => data.settings[kind].members[place]).join("/");
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(place);
  }
  const apart = known.filter((kind) => new Set(places.map((p) => data.settings[kind].members[p])).size > 1);
  const differences = apart.map((kind) => `${kind}: ${data.settings[kind].differences || "settings differ"}`);
  const named = [...groups].map(([key, members]) => {
    const numbers = key.split("/");
    const words = apart.map((kind) => data.settings[kind].labels[numbers[known.indexOf(kind)]]).filter(Boolean);
    return { members, label: [...new Set(words)].join(", ") };
  });
  const unknown = known.filter((kind) => !data.settings[kind].recorded);
  return { groups: named, differences, unknown };
}

// Why numbers that grow with the output length may not be compared: lengths that differ by more than 1 %, or none known.
function lengthObstacle(data, places, axes) {
  for (const axis of axes.filter((each) => each.per_length)) {
    const lengths = places.map((place) => data.lengths[axis.settings][place]);
    if (lengths.includes(null)) return `${axis.label} grows with the output length, which was not recorded for all`;
    const [low, high] = [Math.min(...lengths), Math.max(...lengths)];
    if (high > 1.01 * low) {
      return `${axis.label} grows with the output length, and lengths differ: ${Math.round(low)} to ${Math.round(high)} tokens`;
    }
  }
  return null;
}
