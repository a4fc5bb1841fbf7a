"""What recorded traffic would have cost with other measures, and what it shows to have saved."""
