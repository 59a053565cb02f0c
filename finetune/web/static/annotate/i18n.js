// Texts in the language of the page. The English text is the key of its translation.

export const { language, messages } = JSON.parse(document.getElementById("messages").textContent);
const plurals = new Intl.PluralRules(language);
const numbers = new Intl.NumberFormat(language);
const dates = new Intl.DateTimeFormat(language, { dateStyle: "medium" });
const times = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

// t("{label} is pinned", { label })
export const t = (text, values = {}) => fill(messages[text] ?? text, values);

// tn("{count} photo", "{count} photos", 3)
export function tn(one, many, count, values = {}) {
  const forms = messages[one] ?? [one, many];
  const form = plurals.select(count) === "one" ? forms[0] : forms[forms.length - 1];
  return fill(form, { count: formatNumber(count), ...values });
}

export const formatNumber = (number) => numbers.format(number);

// A share as on the terminal: only exactly 0 and 1 become 0 % and 100 %.
export function percent(share) {
  if (share > 0 && share < 0.01) return "<\u202f1\u202f%";
  if (share > 0.99 && share < 1) return ">\u202f99\u202f%";
  return `${Math.round(share * 100)}\u202f%`;
}

// Local times in ISO form, without a time zone.
export const formatDay = (text) => dates.format(new Date(`${text.slice(0, 10)}T12:00:00`));
export const formatTime = (text) => times.format(new Date(text.slice(0, 19)));

export function formatDuration(seconds) {
  if (seconds < 60) return tn("{count} second", "{count} seconds", Math.max(1, Math.round(seconds)));
  if (seconds < 5400) return tn("{count} minute", "{count} minutes", Math.round(seconds / 60));
  return tn("{count} hour", "{count} hours", Math.round(seconds / 3600));
}
