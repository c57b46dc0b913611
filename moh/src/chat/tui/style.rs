//! How things look: in the terminal's own colours, which fit its background.

use ratatui::style::{Color, Modifier, Style};

/// Colours that can be read on light and on dark, for the names of people.
const NAMES: [Color; 3] = [Color::Cyan, Color::Magenta, Color::Green];

/// Styles, with colours or without.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Styles {
    pub(crate) colours: bool,
}

impl Styles {
    /// Colours, unless `NO_COLOR` says otherwise.
    pub(crate) fn of_environment() -> Self {
        let no_colours = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: !no_colours,
        }
    }

    fn colour(self, colour: Color) -> Style {
        if self.colours {
            Style::new().fg(colour)
        } else {
            Style::new()
        }
    }

    pub(crate) fn plain(self) -> Style {
        Style::new()
    }

    pub(crate) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(crate) fn quiet(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    /// What is chosen.
    pub(crate) fn chosen(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(crate) fn good(self) -> Style {
        self.colour(Color::Green)
    }

    pub(crate) fn bad(self) -> Style {
        self.colour(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// What wants an answer.
    pub(crate) fn wanted(self) -> Style {
        self.colour(Color::Magenta).add_modifier(Modifier::BOLD)
    }

    /// The name of one of the others in a conversation.
    pub(crate) fn name(self, place: usize) -> Style {
        self.colour(NAMES[place % NAMES.len()])
            .add_modifier(Modifier::BOLD)
    }
}
