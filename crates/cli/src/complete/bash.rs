//! Adapts the script for bash, which splits words at `=` and inserts what it is given unquoted.

/// The script with `--option=value` joined again, and with what is inserted quoted.
pub(super) fn adapted(script: &str) -> String {
    script
        .replacen("_CLAP_COMPLETE_INDEX=${COMP_CWORD}", "_CLAP_COMPLETE_INDEX", 1)
        .replacen(WORDS, JOINED_WORDS, 1)
        .replacen(END, QUOTED_END, 1)
}

/// How `clap_complete`'s script collects the words, and what follows its answer.
const WORDS: &str = r#"    local words=("${COMP_WORDS[@]}")
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        words[COMP_CWORD]="$2"
    fi
"#;
const END: &str = r#"    if [[ $? != 0 ]]; then
        unset COMPREPLY
    elif"#;

const JOINED_WORDS: &str = r#"    local words=() word prefix="" joins="" at end=-1
    for ((at = 0; at <= COMP_CWORD; at++)); do
        word="${COMP_WORDS[at]}"
        if [[ $at -eq $COMP_CWORD && "$word" != "=" && "${BASH_VERSINFO[0]}" -ge 4 ]]; then
            word="${2//\\/}"
        fi
        if [[ $end -ge 0 && "${words[end]}" == --* ]] && [[ "$word" == "=" || -n "$joins" ]]; then
            if [[ "$word" == "=" ]]; then joins=1; else joins=""; fi
            words[end]+="$word"
            if [[ $at -eq $COMP_CWORD ]]; then prefix="${words[end]%%=*}="; fi
        else
            end=$((end + 1))
            words[end]="$word"
            joins=""
        fi
    done
    _CLAP_COMPLETE_INDEX=$end
"#;
const QUOTED_END: &str = r#"    if [[ $? != 0 ]]; then
        unset COMPREPLY
        return
    fi
    for at in "${!COMPREPLY[@]}"; do
        # Bash replaces only what is behind the "=".
        word="${COMPREPLY[at]#"$prefix"}"
        # A word that the user has begun to quote is not quoted again.
        if [[ "${COMP_WORDS[COMP_CWORD]}" != [\"\']* ]]; then
            # The tilde is the home.
            if [[ "$word" == "~/"* ]]; then
                printf -v word '~/%q' "${word:2}"
            else
                printf -v word '%q' "$word"
            fi
        fi
        COMPREPLY[at]="$word"
    done
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        return
    elif"#;
