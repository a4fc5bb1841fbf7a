"""Which model a request is sent to: complexity, prices, quality, and what the answer showed."""
