#!/usr/bin/perl
# The benchmark's filters on Sendmail::PMilter, which has no way to leave replies out.
#
# usage: pmilter.pl postfork|prefork|ithread ADDRESS noop|tagger|small PROCESSES
use strict;
use warnings;

# Its thread dispatcher only compiles where these two are loaded before it.
BEGIN {
    if ($ARGV[0] eq 'ithread') {
        require threads;
        require threads::shared;
    }
}
use Sendmail::PMilter qw(:all);

my ($dispatcher, $address, $kind, $processes) = @ARGV;

sub answer { SMFIS_CONTINUE }
sub accept_message { SMFIS_ACCEPT }

sub tag_message {
    my $ctx = shift;
    $ctx->addheader('X-Tagged', 'yes');
    $ctx->chgheader('Subject', 1, '[tagged] minutes');
    SMFIS_ACCEPT;
}

my %every = map { $_ => \&answer }
    qw(connect helo envfrom envrcpt header eoh body abort close);
my %filters = (
    noop   => [{%every, eom => \&accept_message}, 0],
    tagger => [{%every, eom => \&tag_message}, SMFIF_ADDHDRS | SMFIF_CHGHDRS],
    small  => [{envrcpt => \&answer, eom => \&accept_message}, 0],
);
my %dispatchers = (
    postfork => sub { Sendmail::PMilter::postfork_dispatcher() },
    prefork  => sub { Sendmail::PMilter::prefork_dispatcher(max_children => $processes) },
    ithread  => sub { Sendmail::PMilter::ithread_dispatcher() },
);

# Its threads do not ignore the signal by themselves, as its processes do.
$SIG{PIPE} = 'IGNORE';

my $milter = Sendmail::PMilter->new;
$milter->set_listen(1024);
$milter->setconn($address);
$milter->register('benchmark', @{$filters{$kind}});
$milter->set_dispatcher($dispatchers{$dispatcher}->());
$milter->main();
