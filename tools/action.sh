#!/usr/bin/env bash
# The script of action.yml: its inputs are in SLIM_EVAL_* variables, so that no text of theirs is run by the shell.
set -uo pipefail

case "${SLIM_EVAL_INSTALL:-}" in
"") ;;
action) python -m pip install --quiet "$GITHUB_ACTION_PATH" || exit 1 ;;
*) python -m pip install --quiet "$SLIM_EVAL_INSTALL" || exit 1 ;;
esac

junit="${SLIM_EVAL_JUNIT:-slim-eval-junit.xml}"
words=("$SLIM_EVAL_BASELINE" "$SLIM_EVAL_CANDIDATE" --margin "${SLIM_EVAL_MARGIN:-1.0}" --junit "$junit")
while IFS= read -r condition; do
    condition="$(printf '%s' "$condition" | tr -d '\r')"
    [[ -z "${condition// /}" ]] || words+=(--fail-if "$condition")
done <<<"${SLIM_EVAL_FAIL_IF:-}"
[[ -z "${SLIM_EVAL_LOAD:-}" ]] || words+=(--load "$SLIM_EVAL_LOAD")
[[ -z "${GITHUB_STEP_SUMMARY:-}" ]] || words+=(--github-summary)

python -m slim_eval compare "${words[@]}"
code=$?
if [[ -n "${GITHUB_OUTPUT:-}" ]]; then
    printf 'exit-code=%s\njunit=%s\n' "$code" "$junit" >>"$GITHUB_OUTPUT"
fi
if [[ "$code" == 4 && "${SLIM_EVAL_ALLOW_INCONCLUSIVE:-false}" == true ]]; then
    echo "::warning title=slim-eval::a condition is inconclusive"
    exit 0
fi
exit "$code"
