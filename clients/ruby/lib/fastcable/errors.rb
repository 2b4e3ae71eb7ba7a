# frozen_string_literal: true

module Fastcable
  # A broadcast that failed: it was not accepted, or nobody knows whether it was (Unanswered).
  class Error < StandardError
  end

  # The server did not get the whole request, so nothing was delivered: trying again is safe.
  class Unreachable < Error
  end

  # The server got the request, but no answer of a fastcable server came in time. It may have been delivered or not, and
  # whoever tries again may deliver it twice.
  class Unanswered < Error
  end

  # The server answered that it did not take the broadcast: nothing was delivered.
  class Refused < Error
    # The HTTP status, such as 401.
    attr_reader :status
    # The server's own words, in one line.
    attr_reader :reason

    def initialize(url, status, reason)
      @status = status
      @reason = reason.dup.force_encoding(Encoding::UTF_8).scrub.gsub(/[[:cntrl:]]+/, " ")
      super("#{url}: #{status} #{@reason}")
    end
  end

  # Refused for its size: over the server's max_broadcast_size, max_batch or max_retained_bytes.
  class TooLarge < Refused
  end
end
