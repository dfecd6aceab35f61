//! Options that say how tokens are chosen.

use clap::builder::ValueParser;
use clap::error::{Error, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use serde_json::{Map, Value};
use threadrunner_core::{ErrorCode, Failure, ParameterKind, ParameterOption, Parameters};

use super::values;

/// How tokens are chosen: a flag for each of [`Parameters::OPTIONS`].
#[derive(Debug, Clone, Default)]
pub(crate) struct SamplingArgs(Parameters);

impl SamplingArgs {
    /// The parameters of a request, unchecked.
    pub(crate) fn into_parameters(self) -> Parameters {
        self.0
    }

    /// The same, with each checked against its range.
    pub(crate) fn into_checked_parameters(self) -> Result<Parameters, Failure> {
        let params = self.into_parameters();
        match params.validate() {
            Ok(()) => Ok(params),
            Err(error) => Err(Failure::new(
                ErrorCode::InvalidRequest,
                format!(
                    "--{} is {}, but must be {}",
                    error.name.replace('_', "-"),
                    error.value,
                    error.range
                ),
            )),
        }
    }
}

const HEADING: &str = "Sampling (defaults: the model file's, else llama.cpp's)";

impl Args for SamplingArgs {
    fn augment_args(command: Command) -> Command {
        command.args(Parameters::OPTIONS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SamplingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut given = Map::new();
        for ParameterOption { key, kind, .. } in Parameters::OPTIONS {
            let Some(values) = matches.get_many::<Value>(key) else { continue };
            let mut values = values.cloned();
            let value = match kind {
                ParameterKind::Texts => Some(Value::Array(values.collect())),
                ParameterKind::Whole | ParameterKind::Number | ParameterKind::Seed => values.next(),
            };
            given.extend(value.map(|value| ((*key).to_owned(), value)));
        }
        let params = serde_json::from_value(Value::Object(given));
        params.map(Self).map_err(|error| Error::raw(ErrorKind::ValueValidation, error))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        let given = Self::from_arg_matches(matches)?;
        self.0 = given.0.or(&self.0);
        Ok(())
    }
}

fn flag(option: &ParameterOption) -> Arg {
    let parser: ValueParser = match option.kind {
        ParameterKind::Whole => values::whole.into(),
        ParameterKind::Number => values::number.into(),
        ParameterKind::Seed => values::seed.into(),
        ParameterKind::Texts => (|text: &str| Ok::<_, String>(Value::from(text))).into(),
    };
    let arg = Arg::new(option.key)
        .long(option.flag)
        .value_name(option.value)
        .help(option.help)
        .help_heading(HEADING)
        .value_parser(parser);
    match option.kind {
        ParameterKind::Whole | ParameterKind::Number | ParameterKind::Seed => {
            arg.allow_negative_numbers(true)
        }
        ParameterKind::Texts => arg.action(ArgAction::Append).allow_hyphen_values(true),
    }
}
