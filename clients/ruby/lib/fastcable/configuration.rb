# frozen_string_literal: true

require "uri"

module Fastcable
  # Where and how to publish. The defaults come from the environment; each setter checks its value, and raises an
  # ArgumentError that names the option.
  class Configuration
    DEFAULT_URL = "http://127.0.0.1:3000/_broadcast"
    # The first that is set counts. The others are those of servers that took the same posts before.
    URL_VARIABLES = %w[FASTCABLE_BROADCAST_URL NAVIGATOR_BROADCAST_URL TURBO_CABLE_BROADCAST_URL].freeze
    KEY_VARIABLE = "FASTCABLE_BROADCAST_KEY"

    OPTIONS = %i[url key connect_timeout timeout on_error logger].freeze
    ACTION_CABLE_OPTIONS = %i[adapter channel_prefix id].freeze

    # The broadcast endpoint.
    attr_reader :url
    # The server's broadcast_key, if it has one.
    attr_reader :key
    # Seconds for a connection to be made.
    attr_reader :connect_timeout
    # Seconds for a broadcast, all in all.
    attr_reader :timeout
    # What becomes of a Fastcable::Error: it is raised (:raise), or logged while the broadcast returns nil (:log).
    attr_reader :on_error

    # Whose error method is given what is logged: the application's logger in Rails; nil stands for stderr.
    attr_accessor :logger

    def initialize(environment = ENV)
      @connect_timeout = 1
      @timeout = 2
      @on_error = :raise
      self.url = DEFAULT_URL
      from_environment(environment, URL_VARIABLES) { |url| self.url = url }
      from_environment(environment, [KEY_VARIABLE]) { |key| self.key = key }
    end

    def url=(url)
      uri = parse(url)
      raise ArgumentError, "url must not hold a user name or password" if uri&.userinfo
      unless uri.is_a?(URI::HTTP) && uri.host && uri.host != ""
        raise ArgumentError, "url must be like #{DEFAULT_URL}, not #{url.inspect}"
      end

      @url = url.dup.freeze
    end

    def key=(key)
      unless key.nil? || (key.is_a?(String) && key.match?(/\A[!-~]+\z/))
        raise ArgumentError, "key must be printable ASCII without spaces or line ends" # and is not to be shown
      end

      @key = key.dup.freeze
    end

    def connect_timeout=(seconds)
      @connect_timeout = positive("connect_timeout", seconds)
    end

    def timeout=(seconds)
      @timeout = positive("timeout", seconds)
    end

    def on_error=(action)
      unless %w[raise log].include?(action.to_s)
        raise ArgumentError, "on_error must be raise or log, not #{action.inspect}"
      end

      @on_error = action.to_sym
    end

    def log(line)
      logger ? logger.error(line) : warn(line)
    end

    # Sets the options that are not nil.
    def update(options)
      assign(options, OPTIONS)
    end

    # As update, with the entries of config/cable.yml; those that are Action Cable's are left to it.
    def update_from_cable(entries)
      assign(entries.reject { |name, _| ACTION_CABLE_OPTIONS.include?(name.to_sym) }, OPTIONS - [:logger])
    rescue ArgumentError => error
      raise ArgumentError, "config/cable.yml: #{error.message}"
    end

    # Without the key.
    def inspect
      "#<#{self.class} url=#{url.inspect} key=#{key ? "***" : "nil"} connect_timeout=#{connect_timeout} " \
        "timeout=#{timeout} on_error=#{on_error.inspect}>"
    end

    private

    def assign(options, known)
      options.each do |name, value|
        raise ArgumentError, "unknown option #{name}" unless known.include?(name.to_sym)

        public_send("#{name}=", value) unless value.nil?
      end
      self
    end

    def from_environment(environment, names)
      name = names.find { |candidate| !environment.fetch(candidate, "").empty? } or return
      yield environment[name]
    rescue ArgumentError => error
      raise ArgumentError, "#{name}: #{error.message}"
    end

    def parse(url)
      URI.parse(url)
    rescue URI::InvalidURIError
      nil
    end

    def positive(name, seconds)
      return seconds if seconds.is_a?(Numeric) && seconds.positive? && seconds.finite?

      raise ArgumentError, "#{name} must be a number of seconds above 0, not #{seconds.inspect}"
    end
  end
end
